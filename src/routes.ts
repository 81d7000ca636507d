import { auditRoutes } from './audit/routes.ts'
import { authRoutes } from './gateway/routes.ts'
import { healthRoutes, type HealthDeps } from './operation/routes.ts'
import type { Route } from './http/route.ts'
import { keyRoutes } from './keys/routes.ts'
import { openApi } from './operation/openapi.ts'
import { sessionRoutes } from './sessions/routes.ts'
import { userRoutes } from './users/routes.ts'

export type Deps = Parameters<typeof userRoutes>[0] &
  Parameters<typeof sessionRoutes>[0] &
  HealthDeps

/** The whole API surface. */
export const allRoutes = (deps: Deps): Route[] => [
  ...userRoutes(deps),
  ...keyRoutes(deps),
  ...sessionRoutes(deps),
  ...authRoutes(),
  ...auditRoutes(deps),
  ...healthRoutes({ ...deps, document: () => openApi(allRoutes(deps), deps) }),
]
