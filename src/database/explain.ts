// Tells an operator in one sentence why a start or a command failed and, where a setting mends it,
// which one. No stack unless LOG_LEVEL=debug asks for it; never a password or a statement.
import { AppError, ExitError } from '../errors.ts'
import { sqlState } from './codes.ts'

/** Errors of PostgreSQL have a severity, those of the system a call. */
type Thrown = Error & { code?: string; severity?: string; syscall?: string }

const hints: Record<string, string> = {
  [sqlState.invalidPassword]: 'see DATABASE_PASSWORD, DATABASE_PASSWORD_FILE or DATABASE_URL',
  [sqlState.invalidAuthorization]: 'see DATABASE_USER and DATABASE_SSL',
  [sqlState.unknownDatabase]: 'see DATABASE_NAME; node bin/database.js create makes one',
  [sqlState.insufficientPrivilege]: 'see DATABASE_USER',
}
const certificateHint = 'see DATABASE_CA_FILE, DATABASE_SSL and DATABASE_HOST'
const isCertificate = /CERT|^UNABLE_TO_|^ERR_(TLS|SSL)_/

/** The driver's way of saying that it has no password and needs one. */
const isWithoutPassword = ({ message }: Error) => /password must be a string/.test(message)

/** What mends the failure, when waiting does not. */
function hintFor({ code = '', message }: Thrown): string | undefined {
  if (/does not support SSL/.test(message)) return 'see DATABASE_SSL'
  if (isCertificate.test(code)) return certificateHint
  return hints[code]
}

/** Whether the database will refuse the next attempt, too, until an operator changes something. */
export function isHopeless(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  const root = rootOf(error)
  return isWithoutPassword(root) || hintFor(root) !== undefined
}

/** Explains anything thrown in one sentence. */
export function explain(error: unknown): string {
  if (!(error instanceof Error)) return `Unexpected: ${typeof error}`
  if (error instanceof ExitError) return error.message
  const root: Thrown = rootOf(error)
  if (isWithoutPassword(root)) return 'there is no DATABASE_PASSWORD, nor one in ~/.pgpass'
  const hint = hintFor(root)
  if (hint !== undefined) return `${reasonOf(root)}: ${hint}`
  if (error instanceof AppError) {
    const reasons = error.faults.map(({ message }) => message)
    if (root !== error) reasons.push(reasonOf(root))
    return [error.message, ...reasons].join(': ')
  }
  const isExpected = root.severity !== undefined || root.syscall !== undefined
  const isKnown = isExpected || root instanceof AggregateError
  return isKnown ? reasonOf(root) : `Unexpected: ${root.message} (LOG_LEVEL=debug shows where)`
}

/** Tells the operator on stderr why a command or a start failed, and sets the exit status. */
export function exitWith(name: string, error: unknown): void {
  const isDebug = (process.env['LOG_LEVEL'] || process.env['ENV_LOG_LEVEL']) === 'debug'
  process.stderr.write(`${name}: ${explain(error)}\n`)
  if (isDebug && error instanceof Error) process.stderr.write(`${error.stack}\n`)
  process.exitCode = error instanceof ExitError ? error.status : 1
}

function rootOf(error: Error): Thrown {
  return error instanceof AppError && error.cause instanceof Error ? error.cause : error
}

function reasonOf(error: Thrown): string {
  // Of a name with several addresses: what happened at each, and no message of its own.
  const each = error instanceof AggregateError ? error.errors : [error]
  const reasons = each.map(({ message, code }: Thrown) => message || code || 'no reason given')
  const text = [...new Set(reasons)].join(', ')
  return isCertificate.test(error.code ?? '') ? `the certificate is not accepted: ${text}` : text
}
