import { auditRoutes } from './audit/routes.ts'
import { createTwoStepLogIn } from './factors/log-in.ts'
import { factorRoutes } from './factors/routes.ts'
import { gatewayRoutes } from './gateway/routes.ts'
import { absent, type Route } from './http/route.ts'
import { keyRoutes, type KeyDeps } from './keys/routes.ts'
import { adminRoute } from './operation/admin-page.ts'
import { openApi } from './operation/openapi.ts'
import { operationRoutes, type OperationDeps } from './operation/routes.ts'
import { createLogIn, sessionRoutes, type SessionDeps } from './sessions/routes.ts'
import { createTokenHeader, signingRoutes } from './signing/routes.ts'
import type { Signer } from './signing/sign.ts'
import { tokenRoutes, type TokenDeps } from './tokens/routes.ts'
import { userRoutes, type UserDeps } from './users/routes.ts'

/** What the rooms need to answer requests. */
export interface Deps
  extends UserDeps, KeyDeps, SessionDeps, TokenDeps, Omit<OperationDeps, 'document'> {
  /** Null: there are no second factors. */
  secretKeys: Buffer[] | null
  /** Null: nothing is signed. */
  signer: Signer | null
  hasAdminPage: boolean
}

/** The whole API surface. */
export function allRoutes(deps: Deps): Route[] {
  const { secretKeys: keys, signer } = deps
  return [
    ...userRoutes(deps),
    ...keyRoutes(deps),
    ...sessionRoutes(deps, keys === null ? createLogIn(deps) : createTwoStepLogIn(deps, keys)),
    ...(keys === null ? [] : factorRoutes(deps.db, keys)),
    ...tokenRoutes(deps),
    ...gatewayRoutes(signer ? createTokenHeader(signer) : null),
    ...(signer ? signingRoutes(signer, deps.identify) : [absent('/users/jwt')]),
    ...auditRoutes(deps),
    ...(deps.hasAdminPage ? [adminRoute()] : []),
    // Called when the document is asked for: it describes these routes, its own among them.
    ...operationRoutes({ ...deps, document: () => openApi(allRoutes(deps), deps) }),
  ]
}
