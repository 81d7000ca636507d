import { setFlagsFromString } from 'node:v8'

import { startApp } from './app.ts'
import { readConfig } from './config.ts'
import { ExitError, exitWith } from './errors.ts'
import { createLog, describeError } from './log.ts'

const usage = `Usage: node bin/start.js

Serves until SIGTERM or SIGINT. Its settings are in the environment; README.md lists them.
Exit status: 0 stopped, 1 failed, 2 misuse or a wrong setting.
`
// Otherwise V8 comes to take what belongs to one statement of the database for long-lived, and to keep what that refers
// to: a sixth of the time went to collecting it.
setFlagsFromString('--no-allocation-site-pretenuring')
// Whoever reads the log may go away or have a full disk: the service goes on without.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})

async function serve() {
  const config = readConfig(process.env)
  const log = createLog(config.logLevel, (text) => void process.stdout.write(text))
  process.on('exit', log.flush)
  process.on('uncaughtException', (error) => {
    log('error', 'fatal', describeError(error))
    process.exit(1)
  })
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
  const reread = () =>
    started
      .then((app) => app.rereadTls())
      .then(
        () => log('info', 'certificate reread'),
        ({ message }) =>
          log('error', 'certificate not reread, the old one stays', { error: message }),
      )
  // A hang-up ends the service, as it does others, unless it has a certificate to reread.
  process
    .on('SIGTERM', stop)
    .on('SIGINT', stop)
    .on('SIGHUP', config.tls ? reread : stop)
  await started
}

try {
  if (process.argv[2] === '--help') process.stdout.write(usage)
  else if (process.argv.length > 2) throw new ExitError('takes no words: see --help', 2)
  else await serve()
} catch (error) {
  exitWith('user-service', error)
}
