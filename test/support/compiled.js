// For a Node that runs no TypeScript: has it run what test/run.ts compiled once, in place of each
// file. Each of some hundred processes would need a third of a second for tsx, a third of all.
import { existsSync, readFileSync } from 'node:fs'
import { register } from 'node:module'
import { fileURLToPath } from 'node:url'
import { isMainThread } from 'node:worker_threads'

const root = new URL('../..', import.meta.url).href
const compiled = new URL(import.meta.url).searchParams.get('from')

if (isMainThread) {
  // The launchers in bin/ start tsx without it.
  Object.defineProperty(process.features, 'typescript', { value: 'strip' })
  register(import.meta.url)
}

/** Finds the source of what the compiler calls its output. */
export function resolve(specifier, context, next) {
  if (specifier.startsWith('.') && specifier.endsWith('.js')) {
    const source = new URL(specifier.replace(/\.js$/, '.ts'), context.parentURL)
    if (existsSync(fileURLToPath(source))) return { url: source.href, shortCircuit: true }
  }
  return next(specifier, context)
}

/** Reads the output in place of the source. */
export function load(url, context, next) {
  if (!url.startsWith(root) || !url.endsWith('.ts')) return next(url, context)
  const path = url.slice(root.length).replace(/ts$/, 'js')
  return { format: 'module', shortCircuit: true, source: readFileSync(`${compiled}/${path}`) }
}
