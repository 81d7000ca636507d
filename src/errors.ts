/** The codes that programs act on, and the sentences for people, by HTTP status. */
const sentences = {
  400: {
    invalid_id: 'Invalid id syntax',
    invalid_request: 'Malformed request',
    invalid_body: 'Invalid request body',
    invalid_query: 'Invalid query',
    invalid_email: 'Invalid email',
    invalid_password: 'Invalid password',
  },
  401: {
    key_missing: 'API key not found',
    key_invalid: 'Invalid API key',
    invalid_credentials: 'Invalid credentials',
    token_invalid: 'Invalid token',
    authentication_needed: 'Authenticate again',
  },
  403: { forbidden: 'Not allowed' },
  404: {
    user_not_found: 'No such user',
    key_not_found: 'No such key',
    factor_not_found: 'No such factor',
    not_found: 'Not found',
  },
  405: { method_not_allowed: 'Method not allowed' },
  408: { request_timeout: 'Request timeout' },
  409: {
    email_in_use: 'Email already in use',
    last_admin: 'The last admin cannot be removed',
    not_a_session: 'The key is not a session',
    factor_exists: 'A factor is set up already',
    too_many_keys: 'Too many keys',
  },
  412: { stale_version: 'User is not up to date' },
  413: { body_too_large: 'Request body too large' },
  415: { unsupported_media_type: 'Unsupported media type' },
  417: { expectation_failed: 'Expectation failed' },
  429: {
    throttled: 'Too many requests',
    login_throttled: 'Too many failed logins',
  },
  431: { headers_too_large: 'Request header fields too large' },
  500: { internal: 'Internal error' },
  503: {
    overloaded: 'Service overloaded',
    stopping: 'Service stopping',
    database_unavailable: 'Database unavailable',
  },
} as const

type CodeOf<Sentences> = Sentences extends unknown ? keyof Sentences : never
export type Code = CodeOf<(typeof sentences)[keyof typeof sentences]>

/** Every way a request can fail. */
export const failures = {} as Record<Code, { status: number; sentence: string }>
for (const [status, all] of Object.entries(sentences)) {
  for (const [code, sentence] of Object.entries(all))
    failures[code as Code] = { status: Number(status), sentence }
}

/**
 * What is wrong with one member of a body or query, with a code if there is a more precise one than
 * that of the whole.
 */
export type Fault = { field: string; message: string; code?: Code | undefined }
interface Details {
  faults?: Fault[]
  retryAfterSeconds?: number
  /** What a 401 asks for, as a parameter of WWW-Authenticate. */
  challenge?: string
  cause?: unknown
}

/** A failure that the caller is shown, but for its `cause`; anything else thrown is a 500. */
export class AppError extends Error {
  readonly code
  readonly faults
  readonly retryAfterSeconds
  readonly challenge
  constructor(code: Code, { faults = [], retryAfterSeconds, challenge, cause }: Details = {}) {
    super(failures[code].sentence, { cause })
    this.code = code
    this.faults = faults
    this.retryAfterSeconds = retryAfterSeconds
    this.challenge = challenge
  }
}

/** The failure because of one member of a body or query; '' is the whole. */
export const faultIn = (code: Code, field: string, message: string) =>
  new AppError(code, { faults: [{ field, message }] })

/** A failure of a command or of starting: one sentence for the operator and an exit status. */
export class ExitError extends Error {
  readonly status
  constructor(message: string, status = 1) {
    super(message)
    this.status = status
  }
}
