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
 * path. `ANY` takes every method.
 */
export function createRouter(routes: Route[]): Router {
  const rank = (path: string) => (path.includes('{') ? 1 : 0)
  const paths = [...new Set(routes.map(({ path }) => path))].sort((a, b) => rank(a) - rank(b))
  const entries = new Map(paths.map((path) => [path, entryOf(path, routes)]))
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

function entryOf(path: string, all: Route[]): Entry {
  const routes = all.filter((route) => route.path === path)
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
