import type { Route } from './route.ts'

export type Match =
  | { route: Route; params: Record<string, string> }
  /** The path is known, the method is not. */
  | { allow: string; throttled: boolean }
  | null

/**
 * Finds a route by its path, one without parameters before those with. Paths are compared as they were sent: nothing is
 * decoded, `//`, `..`, another case or a slash at the end are other paths. `ANY` takes every method.
 */
export function createRouter(routes: Route[]): (method: string, path: string) => Match {
  const rank = (path: string) => (path.includes('{') ? 1 : 0)
  const paths = [...new Set(routes.map(({ path }) => path))].sort((a, b) => rank(a) - rank(b))
  const entries = paths.map((path) => {
    const source = path
      .replaceAll('.', '\\.')
      .replace(/\{(\w+)\}/g, '(?<$1>[^/]+)')
      .replace(/\/\*$/, '/.*')
    const found = routes.filter((route) => route.path === path)
    const methods = found.flatMap(({ method }) => (method === 'GET' ? ['GET', 'HEAD'] : [method]))
    const throttled = found.some((each) => each.throttled !== false)
    const other = { allow: [...methods, 'OPTIONS'].join(', '), throttled }
    return { path, pattern: RegExp(`^${source}$`), routes: found, other }
  })
  const exact = new Map(entries.map((entry) => [entry.path, entry]))

  return (method, path) => {
    const entry = exact.get(path) ?? entries.find(({ pattern }) => pattern.test(path))
    if (entry === undefined) return null
    const wanted = method === 'HEAD' ? 'GET' : method
    const route = entry.routes.find((each) => each.method === wanted || each.method === 'ANY')
    return route === undefined
      ? entry.other
      : { route, params: { ...entry.pattern.exec(path)!.groups } }
  }
}
