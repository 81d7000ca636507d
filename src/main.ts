import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'

import { startApp, type App } from './app.ts'
import { readConfig } from './config.ts'
import { exitWith } from './database/explain.ts'
import { ExitError } from './errors.ts'
import { createLog, describeError, type Log } from './log.ts'
import { isUnread } from './environment.ts'

const usage = `Usage: node bin/start.js

Serves until SIGTERM or SIGINT. Its settings are in the environment; README.md lists them.
Exit status: 0 stopped, 1 failed, 2 misuse or a wrong setting.
`
const misuse =
  'takes no arguments; settings are in the environment, as in: SERVER_PORT=80 npm start'
/** npm forwards a signal that the terminal sent to us, too: a second one so soon is the same. */
const impatienceMs = 1000

// Without this, V8 pretenures the objects that `pg` creates per statement: it treats them as
// long-lived and keeps everything they reference. Collecting them took a sixth of the CPU time.
setFlagsFromString('--no-allocation-site-pretenuring')
// The log's reader may exit or run out of disk space. Ignore write errors and keep serving.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})

async function serve() {
  if (isUnread('.env', process.env))
    process.stderr.write('user-service: .env is not read; node --env-file=.env bin/start.js does\n')
  const config = readConfig(process.env)
  const log = createLog(config.logLevel, (text) => void process.stdout.write(text))
  process.on('exit', log.flush)
  process.on('uncaughtException', (error) => {
    log('error', 'fatal', describeError(error))
    process.exit(1)
  })
  for (const warning of config.warnings) log('warn', 'settings', { warning })
  const starting = new AbortController()
  const started = startApp(config, log, starting.signal)
  let stoppingSince: number | undefined

  async function stop(signal: string) {
    if (stoppingSince !== undefined) {
      if (performance.now() - stoppingSince >= impatienceMs) process.exit(1)
      return
    }
    stoppingSince = performance.now()
    log('info', 'stopping', { signal })
    starting.abort()
    try {
      const app = await started
      await app.stop()
    } catch {
      // The start was aborted, and has undone itself.
    }
    log('info', 'stopped')
    process.exit()
  }

  if (config.database === null) watchNpm(() => void stop('the end of npm'))
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGQUIT'] as const) process.on(signal, stop)
  // A hang-up ends the service, as it does others, unless it has a certificate to reread.
  process.on('SIGHUP', config.tls === null ? stop : () => void reread(started, log))
  try {
    await started
  } catch (error) {
    // The signal that ended one of the start's programs may arrive here a moment after its end.
    await sleep(100)
    if (stoppingSince === undefined) throw error
  }
}

/** npm that is killed forwards nothing, and its private database would run on. */
function watchNpm(onEnd: () => void) {
  if (process.env['npm_lifecycle_event'] !== 'start') return
  const npm = Number(process.env['npm_pid'])
  const watching = setInterval(() => {
    if (process.ppid === npm) return
    clearInterval(watching)
    onEnd()
  }, 1000).unref()
}

async function reread(started: Promise<App>, log: Log) {
  try {
    const app = await started
    app.rereadTls()
    log('info', 'certificate reread')
  } catch (error) {
    const { message } = error as Error
    log('error', 'certificate not reread, the old one stays', { error: message })
  }
}

try {
  const argument = process.argv[2]
  if (argument === '--help' || argument === '-h') process.stdout.write(usage)
  else if (argument !== undefined) throw new ExitError(misuse, 2)
  else await serve()
} catch (error) {
  exitWith('user-service', error)
  // Do not wait: a half-open connection would hold the process for a minute.
  process.exit()
}
