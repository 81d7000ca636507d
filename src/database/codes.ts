// PostgreSQL's error codes and the numbers of our locks, together so that no two locks share one:
// that once made a backup block requests.

/** What a statement or a connection fails with. */
export interface DatabaseError extends Error {
  code?: string
  /** Set by the server alone, not by the driver, the resolver, TLS or a socket. */
  severity?: string
  /** Set by the operating system alone. */
  syscall?: string
  /** Where in the statement, from 1. */
  position?: string
}

/** The code of an error, if it has one. */
export const codeOf = (error: unknown) => (error as { code?: string }).code ?? ''

/** The database's own error behind a `database_unavailable`; any other error itself. */
export function causeOf(error: unknown) {
  const { cause } = error as Error
  return (cause ?? error) as DatabaseError
}

/** The SQLSTATEs that the code handles. */
export const sqlState = {
  cachedPlanChanged: '0A000',
  insufficientPrivilege: '42501',
  /** A prepared statement that this session does not know: a pooler moved us to another session. */
  invalidStatementName: '26000',
  duplicateStatementName: '42P05',
  duplicateDatabase: '42P04',
  duplicateRole: '42710',
  undefinedTable: '42P01',
  undefinedColumn: '42703',
  undefinedFunction: '42883',
  dependentObjects: '2BP01',
  undefinedObject: '42704',
  invalidPassword: '28P01',
  invalidAuthorization: '28000',
  unknownDatabase: '3D000',
  unknownSchema: '3F000',
  lockTimeout: '55P03',
  adminShutdown: '57P01',
  idleSessionTimeout: '57P05',
}

/** The advisory locks; those with a second number are one lock for each value of it. */
export const locks = {
  migrations: 7520601,
  backup: 7520602,
  firstAdmin: 7520603,
  /** With the first four bytes of the account's hash. */
  account: 7520604,
  /** With the first four bytes of the client's hash. */
  client: 7520606,
  /** Held while a signing key is made. */
  signing: 7520607,
  /** Held while an admin loses the role, is disabled or deleted. */
  lastAdmin: 7520605,
}
