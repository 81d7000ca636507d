// The names of all settings, and the names of the environment that are nearly one of them. A new
// setting is one line here.
import { readFileSync } from 'node:fs'

/** Of the service and of its commands. */
export const settings = [
  'ADMIN_PASSWORD',
  'BOOTSTRAP_ADMIN_EMAIL',
  'BOOTSTRAP_ADMIN_KEY_FILE',
  'CORS_ORIGINS',
  'DATABASE_CA_FILE',
  'DATABASE_HOST',
  'DATABASE_NAME',
  'DATABASE_PASSWORD',
  'DATABASE_PASSWORD_FILE',
  'DATABASE_POOL',
  'DATABASE_PORT',
  'DATABASE_SSL',
  'DATABASE_URL',
  'DATABASE_USER',
  'DRAIN_SECONDS',
  'EMAIL_CHANGE',
  'FRESH_SECONDS',
  'GIT_COMMIT_HASH',
  'IAM_ROLE',
  'KEYS_PER_USER',
  'LOG_LEVEL',
  'MANAGER_PASSWORD',
  'MONITOR_COOLDOWN',
  'NODE_ENV',
  'PASSWORD_MIN_LENGTH',
  'RATE_LIMIT',
  'RATE_LIMIT_BURST',
  'RESET_SECONDS',
  'S3_BUCKET',
  'SERVER_BASE_PATH',
  'SERVER_HOST',
  'SERVER_PORT',
  'SERVICE_ENDPOINT',
  'SERVICE_NAME',
  'SERVICE_PORT',
  'SERVICE_URL',
  'SESSIONS_PER_USER',
  'SESSION_IDLE_SECONDS',
  'SESSION_SECONDS',
  'SESSION_IDLE_SECONDS',
  'FRESH_SECONDS',
  'SESSIONS_PER_USER',
  'KEYS_PER_USER',
  'RESET_SECONDS',
  'VERIFICATION_SECONDS',
  'EMAIL_CHANGE',
  'SHUTDOWN_SECONDS',
  'SIGNUP',
  'TLS_CERT_FILE',
  'TLS_KEY_FILE',
  'TRUSTED_PROXIES',
  'USER_PASSWORD',
  'VERIFICATION_SECONDS',
]
const ourPrefix = /^(DATABASE|SERVER|BOOTSTRAP|CORS|TLS|TRUSTED|WEBHOOK)_|^(RATE_LIMIT|SESSION)/
/** Set by desktops, not by whoever configures a service. */
const foreign = ['SESSION_MANAGER', 'SESSIONNAME']

/**
 * Warns of each name that is no setting but within two letters of one, or begins as ours do: a
 * mistyped security setting is silently off.
 */
export function findMistyped(env: Record<string, string | undefined>): string[] {
  const warnings: string[] = []
  for (const given of Object.keys(env)) {
    const name = given.toUpperCase().replace(/^ENV_/, '')
    const isExact = given === name || given === `ENV_${name}`
    const isKnown = isExact && settings.includes(name)
    if (isKnown || foreign.includes(name) || !env[given]) continue
    const byDistance = settings
      .map((setting) => ({ setting, distance: countEdits(name, setting) }))
      .sort((a, b) => a.distance - b.distance)
    const { setting, distance } = byDistance[0]!
    if (distance <= 2 || ourPrefix.test(name))
      warnings.push(`${given} is no setting and has no effect; the nearest one is ${setting}`)
  }
  return warnings
}

/** Whether the file at `path` sets what `env` does not have: then nobody has read it. */
export function isUnread(path: string, env: Record<string, string | undefined>): boolean {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch {
    return false
  }
  const names = [...text.matchAll(/^\s*(?:export\s+)?(\w+)\s*=/gm)].map(([, name]) => name!)
  return names.some((name) => env[name] === undefined)
}

/** How many letters must be inserted, removed or replaced to turn one word into the other. */
function countEdits(one: string, other: string): number {
  let row = Array.from({ length: other.length + 1 }, (_, index) => index)
  for (const [i, letter] of [...one].entries()) {
    const next = [i + 1]
    for (const [j, wanted] of [...other].entries()) {
      const replaced = row[j]! + Number(letter !== wanted)
      next.push(Math.min(replaced, row[j + 1]! + 1, next[j]! + 1))
    }
    row = next
  }
  return row.at(-1)!
}
