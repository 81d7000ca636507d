// How a script that people start is called.
import { parseArgs, type ParseArgsConfig } from 'node:util'

/**
 * Reads the options of a script. `--help` prints how it is used and ends it; with an option that it
 * does not know it ends with 2.
 */
export function readOptions<const T extends ParseArgsConfig>(usage: string, config: T) {
  if (process.argv.includes('--help') || process.argv.includes('-h')) {
    process.stdout.write(usage)
    process.exit()
  }
  try {
    return parseArgs(config)
  } catch (error) {
    return misuse((error as Error).message, usage)
  }
}

/** Ends a script that was called in a way that it does not know. */
export function misuse(reason: string, usage: string): never {
  process.stderr.write(`${reason}\n${usage}`)
  process.exit(2)
}
