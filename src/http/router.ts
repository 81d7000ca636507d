import type { Route } from './route.ts'

interface Entry {
  segments: string[]
  below: boolean
  routes: Route[]
  allow: string
}

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
  const entries = new Map<string, Entry>()
  for (const route of [...routes].sort((a, b) => rank(a) - rank(b))) {
    const below = route.path.endsWith('/*')
    const segments = route.path.replace(/\/\*$/, '').split('/').slice(1)
    const entry = entries.get(route.path) ?? { segments, below, routes: [], allow: '' }
    entry.routes.push(route)
    entries.set(route.path, entry)
  }
  for (const entry of entries.values()) {
    const methods = entry.routes.flatMap(({ method }) => (method === 'GET' ? ['GET', 'HEAD'] : [method]))
    entry.allow = [...methods, 'OPTIONS'].join(', ')
  }
  const scanned = [...entries.values()]

  return (method, path) => {
    const wanted = method === 'HEAD' ? 'GET' : method
    const given = path.split('/')
    for (const entry of scanned) {
      const params = match(entry, given)
      if (params === null) continue
      const route = entry.routes.find((each) => each.method === wanted || each.method === 'ANY')
      return route === undefined ? { allow: entry.allow } : { route, params }
    }
    return null
  }
}

const rank = ({ path }: Route) => (path.includes('{') ? 1 : 0)

/** `given` starts with the empty text before the first slash. */
function match({ segments, below }: Entry, given: string[]): Record<string, string> | null {
  const length = given.length - 1
  if (below ? length <= segments.length : length !== segments.length) return null
  let params: Record<string, string> | undefined
  for (let i = 0; i < segments.length; i++) {
    const segment = segments[i]!
    const value = given[i + 1]!
    if (segment.startsWith('{') && value !== '') (params ??= {})[segment.slice(1, -1)] = value
    else if (segment !== value) return null
  }
  return params ?? none
}

const none = Object.freeze({})
