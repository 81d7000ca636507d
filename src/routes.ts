import { auditRoutes } from './audit/routes.ts'
import { authRoutes } from './auth/routes.ts'
import { healthRoutes, type HealthDeps } from './health.ts'
import type { Route } from './http/route.ts'
import { keyRoutes } from './keys/routes.ts'
import { openApi } from './openapi.ts'
import { sessionRoutes, type SessionDeps } from './sessions/routes.ts'
import { userRoutes, type UserDeps } from './users/routes.ts'

export type Deps = UserDeps & SessionDeps & HealthDeps

/** The whole API surface. */
export function allRoutes(deps: Deps): Route[] {
  const routes: Route[] = [
    ...userRoutes(deps),
    ...keyRoutes(deps),
    ...sessionRoutes(deps),
    ...authRoutes(),
    ...auditRoutes(deps),
    ...healthRoutes({ ...deps, document: () => openApi(routes, deps) }),
  ]
  return routes
}
