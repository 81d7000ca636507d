import { setFlagsFromString } from 'node:v8'

import { startApp, type App } from './app.ts'
import { readConfig } from './config.ts'
import { ExitError, exitWith } from './errors.ts'
import { createLog, describeError, type Log } from './log.ts'

const usage = `Usage: node bin/start.js

Serves until SIGTERM or SIGINT. Its settings are in the environment; README.md lists them.
Exit status: 0 stopped, 1 failed, 2 misuse or a wrong setting.
`
// Without this, V8 pretenures the objects that `pg` creates per statement: it treats them as
// long-lived and keeps everything they reference. Collecting them took a sixth of the CPU time.
setFlagsFromString('--no-allocation-site-pretenuring')
// The log's reader may exit or run out of disk space. Ignore write errors and keep serving.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})

async function serve(): Promise<void> {
  const config = readConfig(process.env)
  const log = createLog(config.logLevel, (text) => void process.stdout.write(text))
  process.on('exit', log.flush)
  process.on('uncaughtException', (error) => {
    log('error', 'fatal', describeError(error))
    process.exit(1)
  })
  const started = startApp(config, log)
  let stopping = false

  async function stop(signal: string) {
    if (stopping) process.exit(1)
    stopping = true
    log('info', 'stopping', { signal })
    try {
      const app = await started
      await app.stop()
    } catch {
      /* the start failed, and is reported below */
    }
    log('info', 'stopped')
    process.exit()
  }

  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
  // A hang-up ends the service, as it does others, unless it has a certificate to reread.
  process.on('SIGHUP', config.tls === null ? stop : () => void reread(started, log))
  await started
}

async function reread(started: Promise<App>, log: Log): Promise<void> {
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
  if (process.argv[2] === '--help') process.stdout.write(usage)
  else if (process.argv.length > 2) throw new ExitError('takes no arguments: see --help', 2)
  else await serve()
} catch (error) {
  exitWith('user-service', error)
}
