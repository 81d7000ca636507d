import { auditRoutes } from './audit/routes.ts'
import type { Database } from './database/pool.ts'
import { authRoutes } from './gateway/routes.ts'
import type { Limiter } from './http/limiter.ts'
import type { Metrics } from './http/metrics.ts'
import type { Route } from './http/route.ts'
import { keyRoutes } from './keys/routes.ts'
import { openApi } from './operation/openapi.ts'
import { operationRoutes } from './operation/routes.ts'
import type { Hasher } from './passwords/hasher.ts'
import { sessionRoutes } from './sessions/routes.ts'
import { userRoutes } from './users/routes.ts'

/** What the rooms need to answer requests; each names the part that it takes. */
export interface Deps {
  db: Database
  /** Every pool, for the metrics. */
  databases: Database[]
  hasher: Hasher
  /** Null when throttling is off. */
  limiter: Limiter | null
  metrics: Metrics
  basePath: string
  signup: 'open' | 'admin'
  sessionSeconds: number
  passwordMinLength: number
  version: string
  commit: string
  /** Whether health is to answer 503 because the service stops. */
  isStopping(): boolean
}

/** The whole API surface. */
export const allRoutes = (deps: Deps): Route[] => [
  ...userRoutes(deps),
  ...keyRoutes(deps),
  ...sessionRoutes(deps),
  ...authRoutes(),
  ...auditRoutes(deps),
  ...operationRoutes({ ...deps, document: () => openApi(allRoutes(deps), deps) }),
]
