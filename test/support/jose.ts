import { join } from 'node:path'

import { makeFolder, succeed } from './process.ts'

/** What is used of npm's jose. */
interface Jose {
  createLocalJWKSet: (keys: object) => unknown
  createRemoteJWKSet: (url: URL) => unknown
  jwtVerify: (
    token: string,
    keys: unknown,
    expected: object,
  ) => Promise<{ payload: Record<string, unknown> }>
}

/** Fetches npm's jose, by which backends verify tokens, into a folder of its own. */
export async function installJose() {
  const folder = makeFolder('jose')
  const quiet = ['--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']
  await succeed('npm', ['install', '--prefix', folder, ...quiet, 'jose@6.2.18'])
  const jose: Jose = await import(join(folder, 'node_modules/jose/dist/webapi/index.js'))
  return { folder, jose }
}
