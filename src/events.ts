/** Every kind of event. */
export const actions = [
  'user.created',
  'user.imported',
  'user.changed',
  'user.deleted',
  'key.created',
  'key.changed',
  'key.rotated',
  'key.deleted',
  'session.started',
  'session.failed',
  'session.ended',
  'sessions.ended',
  'token.created',
  'tokens.ended',
  'password.reset_requested',
  'email.verification_requested',
  'email.verified',
  'factor.added',
  'factor.removed',
  'factor.recovery_used',
  'factor.codes_renewed',
  'signing_key.replaced',
] as const

export type Action = (typeof actions)[number]

/** The kinds that a pattern such as `user.*` or `user.created` means; imports are never told. */
export const matching = (pattern: string) =>
  actions
    .filter((action) => action !== 'user.imported')
    .filter((action) => [action, action.replace(/\..*/, '.*')].includes(pattern))
