import { startApp } from './app.ts'
import { findMisspelt, readConfig } from './config.ts'
import { ExitError, exitWith } from './errors.ts'
import { createLog, describeError } from './log.ts'

// Whoever reads the log may go away or have a full disk: the service goes on without.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})

const usage = `Usage: node bin/start.js

Serves until SIGTERM or SIGINT. Its settings are in the environment; README.md lists them.
Exit status: 0 stopped, 1 failed, 2 misuse or a wrong setting.
`

try {
  const [word] = process.argv.slice(2)
  if (word === '--help') {
    process.stdout.write(usage)
    process.exit()
  }
  if (word !== undefined) throw new ExitError('takes no words: see --help', 2)
  const config = readConfig(process.env)
  const log = createLog(config.logLevel, (text) => void process.stdout.write(text))
  process.on('exit', log.flush)
  process.on('uncaughtException', (error) => {
    log('error', 'fatal', describeError(error))
    process.exit(1)
  })
  for (const { set, meant } of findMisspelt(process.env)) {
    log('warn', `The setting ${set} is not known; is ${meant} meant?`)
  }

  const started = startApp(config, log)
  let stopping = false
  const stop = async (signal: string) => {
    if (stopping) process.exit(1)
    stopping = true
    log('info', 'stopping', { signal })
    await started.then((app) => app.stop()).catch(() => {})
    log('info', 'stopped')
    process.exit()
  }
  const reread = () => started.then((app) => app.rereadTls()).then(
    () => log('info', 'certificate reread'),
    ({ message }) => log('error', 'certificate not reread, the old one stays', { error: message }))
  process.on('SIGTERM', stop).on('SIGINT', stop)
  // A hang-up ends the service, as it does others, unless it has a certificate to reread.
  process.on('SIGHUP', config.tls ? reread : stop)
  await started
} catch (error) {
  exitWith('user-service', error)
}
