/** Every way a request can fail: its HTTP status and the sentence that clients match on. */
export const failures = {
  invalid_id: { status: 400, sentence: 'Invalid id syntax' },
  invalid_request: { status: 400, sentence: 'Malformed request' },
  invalid_body: { status: 400, sentence: 'Invalid request body' },
  invalid_query: { status: 400, sentence: 'Invalid query' },
  invalid_email: { status: 400, sentence: 'Invalid email' },
  invalid_password: { status: 400, sentence: 'Invalid password' },
  key_missing: { status: 401, sentence: 'API key not found' },
  key_invalid: { status: 401, sentence: 'Invalid API key' },
  invalid_credentials: { status: 401, sentence: 'Invalid credentials' },
  token_invalid: { status: 401, sentence: 'Invalid token' },
  authentication_needed: { status: 401, sentence: 'Authenticate again' },
  forbidden: { status: 403, sentence: 'Not allowed' },
  user_not_found: { status: 404, sentence: 'No such user' },
  key_not_found: { status: 404, sentence: 'No such key' },
  not_found: { status: 404, sentence: 'Not found' },
  method_not_allowed: { status: 405, sentence: 'Method not allowed' },
  request_timeout: { status: 408, sentence: 'Request timeout' },
  email_in_use: { status: 409, sentence: 'Email already in use' },
  last_admin: { status: 409, sentence: 'The last admin cannot be removed' },
  not_a_session: { status: 409, sentence: 'The key is not a session' },
  too_many_keys: { status: 409, sentence: 'Too many keys' },
  stale_version: { status: 412, sentence: 'User is not up to date' },
  body_too_large: { status: 413, sentence: 'Request body too large' },
  unsupported_media_type: { status: 415, sentence: 'Unsupported media type' },
  expectation_failed: { status: 417, sentence: 'Expectation failed' },
  throttled: { status: 429, sentence: 'Too many requests' },
  login_throttled: { status: 429, sentence: 'Too many failed logins' },
  headers_too_large: { status: 431, sentence: 'Request header fields too large' },
  internal: { status: 500, sentence: 'Internal error' },
  overloaded: { status: 503, sentence: 'Service overloaded' },
  stopping: { status: 503, sentence: 'Service stopping' },
  database_unavailable: { status: 503, sentence: 'Database unavailable' },
} as const satisfies Record<string, { status: number; sentence: string }>

export type Code = keyof typeof failures

/** What is wrong with one member of a body or query; a code where that tells more than the one of the whole. */
export type Fault = { field: string; message: string; code?: Code | undefined }
interface Details {
  faults?: Fault[]
  retryAfterSeconds?: number
  /** What a 401 asks for, as a parameter of WWW-Authenticate. */
  challenge?: string
  cause?: unknown
}

/** A failure whose every part is safe to show to the caller; anything else thrown is a 500. */
export class AppError extends Error {
  readonly code: Code
  readonly faults: Fault[]
  readonly retryAfterSeconds: number | undefined
  readonly challenge: string | undefined
  constructor(code: Code, { faults = [], retryAfterSeconds, challenge, cause }: Details = {}) {
    super(failures[code].sentence, { cause })
    this.code = code
    this.faults = faults
    this.retryAfterSeconds = retryAfterSeconds
    this.challenge = challenge
  }
}

/** A failure of a command or of starting: one sentence for the operator and an exit status. */
export class ExitError extends Error {
  readonly status: number
  constructor(message: string, status = 1) {
    super(message)
    this.status = status
  }
}
