// Loads a program of src on every Node that can run it; says in one sentence what is missing,
// before anything of src is read. So this file is JavaScript of old Nodes.
import { createRequire } from 'module'

const require = createRequire(import.meta.url)

/** Runs `src/<program>`; ends the process with 1, after a sentence, where it cannot be loaded. */
export async function load(program) {
  const missing = findMissing()
  if (missing !== null) return fail(missing)
  try {
    if (!process.features.typescript) {
      // Its cache lies where another account may have put something first, and is run as it is.
      process.env.TSX_DISABLE_CACHE = '1'
      const tsx = await import('tsx/esm/api')
      tsx.register()
    }
    return await import('../src/' + program)
  } catch (error) {
    if (process.env.LOG_LEVEL === 'debug') console.error(error)
    fail('cannot be loaded: ' + String(error.message).split('\n')[0])
  }
}

function findMissing() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  const isOld = major < 20 || (major === 20 && minor < 15) || major === 21
  if (isOld || (major === 22 && minor < 2))
    return 'needs Node 20.15 or later, or 22.2 or later; this is ' + process.versions.node
  if (!isInstalled('pg')) return 'its packages are not installed: run npm ci'
  if (process.features.typescript || isInstalled('tsx')) return null
  const advice = 'run npm ci without --omit=dev, or use Node 22.18 or later'
  return 'Node ' + process.versions.node + ' runs TypeScript with tsx alone: ' + advice
}

function isInstalled(name) {
  try {
    require.resolve(name)
    return true
  } catch {
    return false
  }
}

function fail(sentence) {
  console.error('user-service: ' + sentence)
  process.exitCode = 1
}
