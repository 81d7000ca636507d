import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'

import { freePort, succeed, until } from './process.ts'

/** The first that a connection to the port is sent, or the code of the error. */
export async function ask(port: number, host = '127.0.0.1'): Promise<string> {
  const socket = connect(port, host)
  try {
    const [chunk] = (await once(socket, 'data', { signal: AbortSignal.timeout(5000) })) as [Buffer]
    return chunk.toString()
  } catch (error) {
    return (error as { code: string }).code
  } finally {
    socket.destroy()
  }
}

/**
 * A real sshd: an ordinary process on a free port of 127.0.0.1, with its keys and its configuration
 * in `folder`: `right` may log in, `wrong` may not, `known` is a known_hosts file.
 */
export async function startSshd(folder: string, settings: string[] = []) {
  assert.ok(existsSync('/usr/sbin/sshd'), 'These tests need /usr/sbin/sshd: install openssh-server')
  for (const key of ['host', 'right', 'wrong']) {
    await succeed('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(folder, key)])
  }
  const port = await freePort()
  const key = await readFile(join(folder, 'host.pub'), 'utf8')
  await writeFile(join(folder, 'known'), `[127.0.0.1]:${port},[localhost]:${port} ${key}`)
  await writeFile(
    join(folder, 'sshd_config'),
    [
      ...settings, // of two values sshd takes the first
      'ListenAddress 127.0.0.1',
      `Port ${port}`,
      `HostKey ${join(folder, 'host')}`,
      'PidFile none',
      'UsePAM no',
      `AuthorizedKeysFile ${join(folder, 'right.pub')}`,
      'PasswordAuthentication no',
      'StrictModes no',
      'KbdInteractiveAuthentication no',
      'PermitRootLogin prohibit-password',
      '',
    ].join('\n'),
  )
  // sshd under root drops its privileges in this folder, which is empty and does not survive a
  // boot.
  if (process.getuid?.() === 0) await mkdir('/run/sshd', { recursive: true })
  const sshd = spawn('/usr/sbin/sshd', ['-D', '-e', '-f', join(folder, 'sshd_config')], {
    stdio: 'ignore',
  })
  await until('sshd answers', async () => (await ask(port)).startsWith('SSH'))
  return {
    port,
    pid: sshd.pid!,
    async stop() {
      if (sshd.exitCode === null && sshd.kill()) await once(sshd, 'exit')
    },
  }
}
