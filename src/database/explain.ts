// Explains to an operator in one sentence why a start or a command failed and which setting fixes
// it, if one does. No stack unless LOG_LEVEL=debug asks for it; never a password or a statement.
import { AppError, ExitError } from '../errors.ts'
import { describeError } from '../log.ts'
import { causeOf, sqlState, type DatabaseError } from './codes.ts'

const statusHint = 'see node bin/migrate.js status'
const hints: Record<string, string> = {
  [sqlState.undefinedTable]: statusHint,
  [sqlState.undefinedColumn]: statusHint,
  [sqlState.undefinedFunction]: statusHint,
  [sqlState.invalidPassword]: 'see DATABASE_PASSWORD, DATABASE_PASSWORD_FILE or DATABASE_URL',
  [sqlState.invalidAuthorization]: 'see DATABASE_USER and DATABASE_SSL',
  [sqlState.unknownDatabase]: 'see DATABASE_NAME; node bin/database.js create makes one',
  [sqlState.unknownSchema]: 'node bin/database.js create makes it',
  [sqlState.insufficientPrivilege]:
    'see DATABASE_USER; node bin/database.js create grants again what the service needs',
}
const isCertificate = /CERT|^(UNABLE|INVALID|PATH_LENGTH|CRL|ERR_TLS|ERR_SSL|UNSPECIFIED)/

/** Explains a failure that only an operator can fix; undefined for any other. */
function adviseOn(failure: DatabaseError) {
  const { code = '', message } = failure
  // The driver's way of saying that it has no password and needs one.
  if (/password must be a string/.test(message))
    return 'there is no DATABASE_PASSWORD, nor one in ~/.pgpass'
  let hint = hints[code]
  if (isCertificate.test(code)) hint = 'see DATABASE_CA_FILE, DATABASE_SSL and DATABASE_HOST'
  if (/does not support SSL/.test(message)) hint = 'see DATABASE_SSL'
  return hint && `${reasonOf(failure)}: ${hint}`
}

/** Whether the database will refuse each attempt until an operator changes something. */
export const isHopeless = (error: unknown) => adviseOn(causeOf(error)) !== undefined

/** Explains anything thrown in one sentence. */
export function explain(error: unknown) {
  if (error instanceof ExitError) return error.message
  const root = causeOf(error)
  const advice = adviseOn(root)
  if (advice !== undefined) return advice
  if (error instanceof AppError) {
    const reasons = error.faults.map(({ message }) => message)
    if (root !== error) reasons.push(reasonOf(root))
    // Waiting may mend it, too.
    if (/^(connect|getaddrinfo|Connection) /.test(reasonOf(root)))
      reasons.push('see DATABASE_HOST, DATABASE_PORT or DATABASE_URL')
    return [error.message, ...reasons].join(': ')
  }
  const isExpected = root.severity !== undefined || root.syscall !== undefined
  const isKnown = isExpected || root instanceof AggregateError
  return isKnown ? reasonOf(root) : `Unexpected: ${root.message} (LOG_LEVEL=debug shows where)`
}

/** Explains on stderr why a command or a start failed, and sets the exit status. */
export function exitWith(name: string, error: unknown) {
  const isDebug = (process.env['LOG_LEVEL'] || process.env['ENV_LOG_LEVEL']) === 'debug'
  console.error(`${name}: ${explain(error)}`)
  if (isDebug) console.error(describeError(error).error)
  process.exitCode = error instanceof ExitError ? error.status : 1
}

function reasonOf(error: DatabaseError) {
  // An AggregateError, for a name with several addresses, holds one for each and no message.
  const each = error instanceof AggregateError ? error.errors : [error]
  const reasons = each.map(
    ({ message, code }: DatabaseError) => message || code || 'no reason given',
  )
  const text = [...new Set(reasons)].join(', ')
  return isCertificate.test(error.code ?? '') ? `the certificate is not accepted: ${text}` : text
}
