import type { Route } from './route.ts'

/** What a method and a path lead to. */
export interface Match {
  route?: Route
  /** Without a route: the methods that the path takes; undefined where there is no such path. */
  allow?: string | undefined
  params: Record<string, string>
  /** Whether the request counts for the limiter. */
  throttled: boolean
}

/** Finds what a request asks for. */
export type Router = (method: string, path: string) => Match

/**
 * Finds a route by its path; a path without parameters comes before one with. Paths are compared as
 * they were sent: nothing is decoded, and `//`, `..`, another case or a trailing slash make another
 * path. `ANY` takes every method; of two routes that fit, the first is found.
 */
export function createRouter(routes: Route[], basePath: string): Router {
  const rank = ({ path }: Route) => (path.includes('{') ? 1 : 0)
  const entries = new Map<string, { pattern: RegExp; routes: Route[] }>()
  for (const route of routes.toSorted((a, b) => rank(a) - rank(b))) {
    const path = route.atRoot ? route.path : basePath + route.path
    const entry = entries.get(path) ?? { pattern: patternOf(path), routes: [] }
    entry.routes.push(route)
    entries.set(path, entry)
  }
  const all = [...entries.values()]

  return (method, path) => {
    const entry = entries.get(path) ?? all.find(({ pattern }) => pattern.test(path))
    if (entry === undefined) {
      return { allow: path === '*' ? 'OPTIONS' : undefined, params: {}, throttled: true }
    }
    const wanted = method === 'HEAD' ? 'GET' : method
    const route = entry.routes.find((each) => each.method === wanted || each.method === 'ANY')
    // A method that the path does not take is throttled as the path's first method is.
    const throttled = (route ?? entry.routes[0]!).throttled !== false
    if (route === undefined) return { allow: allowOf(entry.routes), params: {}, throttled }
    return { route, params: { ...entry.pattern.exec(path)?.groups }, throttled }
  }
}

function allowOf(routes: Route[]) {
  const methods = routes.map(({ method }) => (method === 'GET' ? 'GET, HEAD' : method))
  return [...methods, 'OPTIONS'].join(', ')
}

/** `{name}` is one segment, `/*` at the end stands for anything below. */
function patternOf(path: string) {
  const source = path
    .replaceAll('.', '\\.')
    .replace(/\{(\w+)\}/g, '(?<$1>[^/]+)')
    .replace(/\/\*$/, '/.*')
  return RegExp(`^${source}$`)
}
