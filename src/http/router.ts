import type { Route } from './route.ts'

/** What a method and a path lead to; `throttled`: whether the request counts for the limiter. */
export type Match =
  | { kind: 'route'; throttled: boolean; route: Route; params: Record<string, string> }
  | { kind: 'otherMethod'; throttled: boolean; allow: string }
  | { kind: 'nothing'; throttled: true }

/** Finds what a request asks for. */
export type Router = (method: string, path: string) => Match

/** The routes of one path. */
interface Entry {
  pattern: RegExp
  routes: Route[]
  otherMethod: Match
}

/**
 * Finds a route by its path, one without parameters before those with. Paths are compared as they
 * were sent: nothing is decoded, and `//`, `..`, another case or a slash at the end make another
 * path. `ANY` takes every method, and of two routes for the same the first is found.
 */
export function createRouter(routes: Route[], basePath: string): Router {
  const rank = (path: string) => (path.includes('{') ? 1 : 0)
  const byPath = new Map<string, Route[]>()
  for (const route of routes) {
    const path = route.atRoot === true ? route.path : basePath + route.path
    byPath.set(path, [...(byPath.get(path) ?? []), route])
  }
  const paths = [...byPath.keys()].sort((a, b) => rank(a) - rank(b))
  const entries = new Map(paths.map((path) => [path, entryOf(path, byPath.get(path)!)]))
  const all = [...entries.values()]

  return (method, path) => {
    const entry = entries.get(path) ?? all.find(({ pattern }) => pattern.test(path))
    if (entry === undefined) return { kind: 'nothing', throttled: true }
    const wanted = method === 'HEAD' ? 'GET' : method
    const route = entry.routes.find((each) => each.method === wanted || each.method === 'ANY')
    if (route === undefined) return entry.otherMethod
    const params = { ...entry.pattern.exec(path)?.groups }
    return { kind: 'route', throttled: route.throttled !== false, route, params }
  }
}

function entryOf(path: string, routes: Route[]): Entry {
  const methods = routes.flatMap(({ method }) => (method === 'GET' ? ['GET', 'HEAD'] : [method]))
  const throttled = routes.some((each) => each.throttled !== false)
  const allow = [...methods, 'OPTIONS'].join(', ')
  return {
    pattern: patternOf(path),
    routes,
    otherMethod: { kind: 'otherMethod', throttled, allow },
  }
}

/** `{name}` is one segment, `/*` at the end stands for anything below. */
function patternOf(path: string): RegExp {
  const source = path
    .replaceAll('.', '\\.')
    .replace(/\{(\w+)\}/g, '(?<$1>[^/]+)')
    .replace(/\/\*$/, '/.*')
  return RegExp(`^${source}$`)
}
