import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import { freePort, succeed, until } from './process.ts'

/**
 * A real S3 server on loopback: OpenStack Swift with its s3api. Two accounts that may read and
 * write (backup:agent / backup-secret) and that may do nothing (backup:reader / reader-secret).
 */
export async function startS3(directory: string) {
  const [proxy, object, container, account, memcached] = await Promise.all(
    Array.from({ length: 5 }, freePort),
  )
  const etc = join(directory, 'etc')
  for (const name of ['etc', 'srv/d1', 'cache', 'log'])
    mkdirSync(join(directory, name), { recursive: true })
  const user = await succeed('id', ['-un'])
  if (process.getuid?.() === 0) chmodSync(directory, 0o755)
  writeFileSync(
    join(etc, 'swift.conf'),
    `[swift-hash]
swift_hash_path_suffix = test
swift_hash_path_prefix = test
[storage-policy:0]
name = Policy-0
default = yes
`,
  )
  const common = (port: number) => `[DEFAULT]
bind_ip = 127.0.0.1
bind_port = ${port}
workers = 0
user = ${user}
swift_dir = ${etc}
devices = ${directory}/srv
mount_check = false
disable_fallocate = true
log_address = ${directory}/log/none
recon_cache_path = ${directory}/cache
`
  for (const [name, port] of Object.entries({ account, container, object })) {
    writeFileSync(
      join(etc, `${name}-server.conf`),
      `${common(port!)}
[pipeline:main]
pipeline = ${name}-server
[app:${name}-server]
use = egg:swift#${name}
`,
    )
    const builder = join(etc, `${name}.builder`)
    await succeed('swift-ring-builder', [builder, 'create', '4', '1', '0'])
    await succeed('swift-ring-builder', [builder, 'add', `r1z1-127.0.0.1:${port}/d1`, '1'])
    await succeed('swift-ring-builder', [builder, 'rebalance'])
  }
  const filters = [
    'catch_errors',
    'gatekeeper',
    'cache',
    'listing_formats',
    'bulk',
    's3api',
    'tempauth',
    'copy',
    'slo',
    'dlo',
  ]
  const settings: Record<string, string> = {
    cache: `use = egg:swift#memcache\nmemcache_servers = 127.0.0.1:${memcached}`,
    s3api:
      'use = egg:swift#s3api\nlocation = us-east-1\ns3_acl = false\nmin_segment_size = 5242880',
    tempauth:
      'use = egg:swift#tempauth\nuser_backup_agent = backup-secret .admin\n' +
      'user_backup_reader = reader-secret',
  }
  const describeFilter = (name: string) =>
    `[filter:${name}]\n${settings[name] ?? `use = egg:swift#${name}`}\n`
  writeFileSync(
    join(etc, 'proxy-server.conf'),
    `${common(proxy!)}
[pipeline:main]
pipeline = ${filters.join(' ')} proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
${filters.map(describeFilter).join('')}`,
  )

  const running = new Map<string, ChildProcess>()
  const launch = (name: string, program: string, args: string[]) =>
    running.set(name, spawn(program, args, { stdio: 'ignore', detached: true }))
  const start = (name: string) =>
    launch(name, `swift-${name}-server`, [join(etc, `${name}-server.conf`)])
  const answers = async () => {
    try {
      return await fetch(`http://127.0.0.1:${proxy}/`)
    } catch {
      return false
    }
  }
  const ready = () =>
    until('the S3 server answers; are memcached and the swift servers there?', answers, 120)
  launch('memcached', 'memcached', [
    '-u',
    user,
    '-l',
    '127.0.0.1',
    '-p',
    String(memcached),
    '-U',
    '0',
    '-m',
    '32',
  ])
  for (const name of ['account', 'container', 'object', 'proxy']) start(name)
  await ready()

  return {
    env: {
      AWS_ENDPOINT_URL: `http://127.0.0.1:${proxy}`,
      AWS_ACCESS_KEY_ID: 'backup:agent',
      AWS_SECRET_ACCESS_KEY: 'backup-secret',
      AWS_DEFAULT_REGION: 'us-east-1',
      AWS_EC2_METADATA_DISABLED: 'true',
    },
    /** What clients talk to dies at once, as in a crash. */
    kill() {
      process.kill(-running.get('proxy')!.pid!, 'SIGKILL')
    },
    async start() {
      start('proxy')
      await ready()
    },
    async stop() {
      for (const child of running.values()) {
        if (child.exitCode === null && child.signalCode === null) {
          process.kill(-child.pid!, 'SIGKILL')
          await once(child, 'exit')
        }
      }
    },
  }
}
