import type { Route } from './route.ts'

export type Match =
  | { route: Route; params: Record<string, string> }
  /** The path is known, the method is not. */
  | { allow: string }
  | null

/**
 * Finds a route by a linear scan over the paths, those without parameters first. Paths are compared
 * as they were sent: nothing is decoded, `//`, `..`, another case or a slash at the end are other
 * paths. `ANY` takes every method.
 */
export function createRouter(routes: Route[]): (method: string, path: string) => Match {
  const rank = (path: string) => (path.includes('{') ? 1 : 0)
  const paths = [...new Set(routes.map(({ path }) => path))].sort((a, b) => rank(a) - rank(b))
  const entries = paths.map((path) => {
    const source = path.replaceAll('.', '\\.').replace(/\{(\w+)\}/g, '(?<$1>[^/]+)').replace(/\/\*$/, '/.*')
    const found = routes.filter((route) => route.path === path)
    const methods = found.flatMap(({ method }) => (method === 'GET' ? ['GET', 'HEAD'] : [method]))
    return { pattern: RegExp(`^${source}$`), routes: found, allow: [...methods, 'OPTIONS'].join(', ') }
  })

  return (method, path) => {
    const wanted = method === 'HEAD' ? 'GET' : method
    for (const { pattern, routes, allow } of entries) {
      const found = pattern.exec(path)
      if (found === null) continue
      const route = routes.find((each) => each.method === wanted || each.method === 'ANY')
      return route === undefined ? { allow } : { route, params: { ...found.groups } }
    }
    return null
  }
}
