import { fileURLToPath } from 'node:url'

import { startApp } from './app.ts'
import { findMisspelt, readConfig } from './config.ts'
import { tellFailure } from './errors.ts'
import { createLog, describeError } from './log.ts'

// Whoever reads the log may go away or have a full disk: the service goes on without.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})

const write = (text: string) => void process.stdout.write(text)

try {
  const config = readConfig(process.env)
  const log = createLog(config.logLevel, write)
  const fatal = (error: unknown) => {
    log('error', 'fatal', describeError(error))
    log.flush()
    process.exit(1)
  }
  process.on('uncaughtException', fatal)
  process.on('unhandledRejection', fatal)
  for (const { set, meant } of findMisspelt(process.env)) {
    log('warn', `The setting ${set} is not known; is ${meant} meant?`)
  }

  let stopping = false
  const started = startApp(config, {
    log,
    localDirectory: fileURLToPath(new URL('../.local', import.meta.url)),
    say: (line) => void process.stderr.write(`${line}\n`),
  })
  // A hang-up ends the service, as it does others, unless it has a certificate to reread.
  for (const signal of config.tls ? ['SIGTERM', 'SIGINT'] : ['SIGTERM', 'SIGINT', 'SIGHUP']) {
    process.on(signal, () => {
      if (stopping) process.exit(1)
      stopping = true
      log('info', 'stopping', { signal })
      void started.then((app) => app.stop()).catch(() => {}).then(() => {
        log('info', 'stopped')
        log.flush()
        process.exit(process.exitCode ?? 0)
      })
    })
  }
  const app = await started
  if (config.tls) process.on('SIGHUP', () => {
    try {
      app.rereadTls()
      log('info', 'certificate reread')
    } catch (error) {
      log('error', 'certificate not reread, the old one stays', { error: (error as Error).message })
    }
  })
} catch (error) {
  const { text, status } = tellFailure(error)
  process.stderr.write(`user-service: ${text}\n`)
  process.exitCode = status
}
