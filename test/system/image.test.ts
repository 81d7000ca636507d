// Needs a Docker engine that `docker` reaches and whose bridge is here, the base image (or a way to
// pull it), openssh-server and docker-registry. It starts the rest: PostgreSQL, sshd, the registry.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect } from 'node:tls'

import { startPrivatePostgres } from '../../src/database/private.ts'
import { freePort, root, run, succeed, until } from '../support/process.ts'
import { ask, startSshd } from '../support/sshd.ts'

const undo: (() => unknown)[] = []
after(async () => {
  for (const each of undo.splice(0).reverse()) await each()
})

const docker = (...args: string[]) => succeed('docker', args)
const engine = await run('docker', ['version'])
assert.equal(engine.status, 0, `These tests need a Docker engine: ${engine.stderr}`)
const names = ['', '-new', '-previous', '-migration', '-try'].map((end) => `user-service${end}`)
const present = (await docker('ps', '-a', '--format', '{{.Names}}'))
  .split('\n')
  .filter((name) => names.includes(name))
assert.deepEqual(
  present,
  [],
  'These tests would replace containers that are there: use another engine',
)
undo.push(() => run('docker', ['rm', '-f', ...names]))

const folder = await mkdtemp(join(tmpdir(), 'image-'))
undo.push(() => rm(folder, { recursive: true }))
await chmod(folder, 0o755)

// PostgreSQL on Docker's bridge, as the set-up of an instance makes it.
const bridge = /inet ([\d.]+)/.exec(await succeed('ip', ['-4', 'address', 'show', 'docker0']))![1]!
const databasePort = String(await freePort())
await writeFile(
  join(folder, 'pg_hba.conf'),
  'local all all trust\nhost db_user_service all samenet scram-sha-256\n',
)
const postgres = await startPrivatePostgres({
  directory: join(folder, 'data'),
  say: () => {},
  settings: {
    listen_addresses: bridge,
    port: databasePort,
    hba_file: join(folder, 'pg_hba.conf'),
    client_connection_check_interval: '1s',
  },
})
undo.push(() => postgres.stop())
const secrets = {
  ADMIN_PASSWORD: 'admins-secret',
  MANAGER_PASSWORD: 'managers-secret',
  USER_PASSWORD: 'users-secret',
}
await succeed('node', ['bin/database.js', 'create'], {
  DATABASE_HOST: postgres.socketDirectory,
  DATABASE_PORT: databasePort,
  ...secrets,
})

// A registry that asks for the password `ci-token` of the user `ci`.
const registryPort = await freePort()
await writeFile(
  join(folder, 'htpasswd'),
  'ci:$2y$05$esf5EjZqj6lsJMHvxNXs6e7PJLALteu0Q4DAaI8fTsAB4VNQmE8Wi\n',
)
await writeFile(
  join(folder, 'registry.yml'),
  `version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: ${join(folder, 'registry')}}}
http: {addr: '127.0.0.1:${registryPort}'}
auth: {htpasswd: {realm: test, path: ${join(folder, 'htpasswd')}}}
`,
)
const registry = spawn('docker-registry', ['serve', join(folder, 'registry.yml')], {
  stdio: 'ignore',
})
await once(registry, 'spawn').catch(() => assert.fail('These tests need docker-registry'))
undo.push(async () => registry.kill() && (await once(registry, 'exit')))
const loggedIn = { DOCKER_CONFIG: join(folder, 'docker') }
for (let i = 0; i < 50 && (await ask(registryPort)) === 'ECONNREFUSED'; i++) await sleep(100)
await succeed(
  'sh',
  ['-c', `echo ci-token | docker login -u ci --password-stdin 127.0.0.1:${registryPort}`],
  loggedIn,
)

const host = process.env['DOCKER_HOST']
const sshd = await startSshd(folder, [
  `AuthorizedKeysFile ${join(folder, 'right.pub')} ${join(folder, 'restricted')}`,
  ...(host ? [`SetEnv DOCKER_HOST=${host}`] : []),
])
undo.push(() => sshd.stop())
// The key of the CI, as the set-up of an instance admits it.
const commands = join(folder, 'commands')
await succeed('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(folder, 'ci')])
const ciKey = await readFile(join(folder, 'ci.pub'), 'utf8')
await writeFile(join(folder, 'restricted'), `restrict,command="${commands}/deploy" ${ciKey}`)

// The instance's settings.
const servicePort = await freePort()
const config = join(folder, 'config')
await mkdir(config)
await mkdir(commands)
const database = `DATABASE_HOST=host.docker.internal\nDATABASE_PORT=${databasePort}\n`
await writeFile(join(config, 'env'), `${database}DATABASE_PASSWORD=managers-secret\n`, {
  mode: 0o600,
})
await writeFile(join(config, 'admin.env'), `${database}DATABASE_PASSWORD=admins-secret\n`, {
  mode: 0o600,
})
await writeFile(
  join(config, 'docker.options'),
  `--publish 127.0.0.1:${servicePort}:80\n--memory 256m --health-interval 1s\n`,
  { mode: 0o600 },
)

const image = (tag: string) => `127.0.0.1:${registryPort}/user-service:${tag}`
const known: string[] = []
undo.push(() => run('docker', ['image', 'rm', '-f', ...known]))

/** Builds an image, by default from the version `good`, and pushes it. */
async function publish(tag: string, lines: string[]) {
  const context = join(folder, 'context', tag)
  await mkdir(join(context, 'sql'), { recursive: true })
  await writeFile(join(context, 'Dockerfile'), [`FROM ${image('good')}`, ...lines, ''].join('\n'))
  await docker('build', '-q', '-t', image(tag), context)
  known.push(image(tag))
  await succeed('docker', ['push', '-q', image(tag)], loggedIn)
}

const deployEnv = {
  DEPLOY_HOST: '127.0.0.1',
  DEPLOY_PORT: String(sshd.port),
  DEPLOY_USER: userInfo().username,
  DEPLOY_KEY_FILE: join(folder, 'right'),
  DEPLOY_KNOWN_HOSTS: join(folder, 'known'),
  DEPLOY_CONFIG: config,
  DEPLOY_COMMANDS: commands,
  DEPLOY_WAIT: '20',
  DEPLOY_MIGRATE_WAIT: '20',
  REGISTRY_USER: 'ci',
  REGISTRY_PASSWORD: 'ci-token',
}
const deploy = (word: string, env: NodeJS.ProcessEnv = {}, ...more: string[]) =>
  run('bin/deploy.sh', [word, ...more], { ...deployEnv, ...env })

const inspect = (name: string, format: string) => docker('container', 'inspect', '-f', format, name)

/** Everything that a failed deployment must leave as it was. */
async function observe() {
  const { status, stdout } = await run('curl', [
    '-s',
    `http://127.0.0.1:${servicePort}/v1/healthcheck`,
  ])
  return {
    containers: (await docker('ps', '-a', '--format', '{{.Names}} {{.Image}} {{.ID}} {{.State}}'))
      .split('\n')
      .filter((line) => names.includes(line.split(' ')[0]!))
      .sort(),
    health: status === 0 ? (JSON.parse(stdout) as { details: string }).details : status,
    migrations: await succeed('node', ['bin/migrate.js', 'status'], {
      DATABASE_HOST: postgres.socketDirectory,
      DATABASE_PORT: databasePort,
    }).catch((error: Error) => error.message),
  }
}

const migrations = readdirSync(join(root, 'sql')).filter((name) => name.endsWith('.up.sql')).length
const next = String(migrations + 1).padStart(4, '0')
const afterNext = String(migrations + 2).padStart(4, '0')
const addMigration = (number: string, up: string) => [
  'USER root',
  `RUN echo '${up}' > sql/${number}_more.up.sql`,
  `RUN echo 'drop table user_service_schema.more${number}' > sql/${number}_more.down.sql`,
  'USER node',
]
const createTable = (number: string) =>
  addMigration(number, `create table user_service_schema.more${number} ()`)

test('the image holds pg and our text alone, tells its commit, and is not writable', async () => {
  await docker('build', '-q', '--build-arg', 'GIT_COMMIT_HASH=abc1234', '-t', image('good'), root)
  known.push(image('good'))
  await succeed('docker', ['push', '-q', image('good')], loggedIn)

  const inside = (script: string) =>
    docker('run', '--rm', '--network', 'none', image('good'), 'sh', '-c', script)
  const lock = JSON.parse(await readFile(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { dev?: boolean; devOptional?: boolean; optional?: boolean }>
  }
  const wanted = Object.entries(lock.packages).filter(
    ([path, about]) => path && !about.dev && !about.devOptional,
  )
  const [packages, top, writable, user] = await Promise.all([
    inside('ls -d node_modules/*'),
    inside('ls -A . bin'),
    inside('find /app -writable'),
    inside('id -un'),
  ])
  assert.deepEqual(packages.split('\n').sort(), wanted.map(([path]) => path).sort())
  assert.deepEqual(
    top.split('\n').filter((name) => /\.sh$|test|\.env|^\.git/.test(name)),
    [],
  )
  assert.deepEqual({ writable, user }, { writable: '', user: 'node' })
  assert.equal(
    await docker('image', 'inspect', '-f', '{{.Config.User}}', image('good')),
    '1000:1000',
  )
  const about = await docker(
    'image',
    'inspect',
    '-f',
    '{{index .Config.Labels "org.opencontainers.image.revision"}} {{.Config.Cmd}} {{.Config.Env}}',
    image('good'),
  )
  assert.match(about, /^abc1234 \[node bin\/start\.js\] \[.*\bGIT_COMMIT_HASH=abc1234\b.*\]$/)
})

test('a first deployment that fails is removed again', async () => {
  await publish('crashing', ['CMD ["node", "-e", "console.log(6*7);process.exit(3)"]'])
  const before = await observe()
  const { status, stderr } = await deploy(image('crashing'))

  assert.equal(status, 1)
  assert.match(
    stderr,
    /the end of its log:\n42\n[^]*crashing failed; everything is as it was before\n$/,
  )
  assert.deepEqual(await observe(), before)
})

test('a deployment migrates and runs the service without rights', async () => {
  const { status, stderr } = await deploy(image('good'))

  assert.equal(status, 0, stderr)
  const seen = await observe()
  assert.equal(seen.health, 'OK')
  assert.doesNotMatch(seen.migrations, /pending/)
  assert.equal(existsSync(join(commands, 'app/bin/backup.js')), true)
  assert.equal(
    await inspect(
      'user-service',
      '{{.Config.User}} {{with .HostConfig}}{{.ReadonlyRootfs}} {{.CapDrop}} ' +
        '{{.SecurityOpt}} {{.RestartPolicy.Name}} {{.Memory}}{{end}}',
    ),
    '1000:1000 true [ALL] [no-new-privileges] unless-stopped 268435456',
  )
  const status1 = await docker('exec', 'user-service', 'cat', '/proc/1/status')
  assert.match(status1, /^Uid:\s1000\b[^]*^CapEff:\s0+$[^]*^NoNewPrivs:\s1$/m)
  const key = await docker(
    'exec',
    'user-service',
    'node',
    'bin/admin.js',
    'create',
    'ada@example.org',
  )
  assert.match(key, /^usk_/)
})

test('a deployment that cannot begin changes nothing', async () => {
  const before = await observe()
  const missing = await deploy(image('nowhere'))
  const refused = await deploy(image('good'), { REGISTRY_PASSWORD: 'wrong' })
  const options = await readFile(join(config, 'docker.options'))
  await writeFile(join(config, 'docker.options'), '--nonsense')
  const nonsense = await deploy(image('good'))
  await writeFile(join(config, 'docker.options'), options)
  await chmod(join(config, 'env'), 0o644)
  const readable = await deploy(image('good'))
  await chmod(join(config, 'env'), 0o600)
  const noWayBack = await deploy('--roll-back')

  assert.match(
    missing.stderr,
    /manifest unknown[^]*nothing changed: the image could not be pulled\n$/,
  )
  assert.match(refused.stderr, /nothing changed: .*unauthorized/i)
  assert.match(
    nonsense.stderr,
    /unknown flag: --nonsense[^]*nothing changed: see docker\.options\n$/,
  )
  assert.match(readable.stderr, /mode 0600/)
  assert.match(noWayBack.stderr, /there is no container to go back to/)
  assert.deepEqual(
    [missing, refused, nonsense, readable, noWayBack].map((outcome) => outcome.status),
    [1, 1, 1, 1, 1],
  )
  assert.deepEqual(await observe(), before)
})

test('a failing migration rolls back those before it, and the service stays', async () => {
  await publish('half', [...createTable(next), ...addMigration(afterNext, 'create nonsense')])
  await publish('hanging', [...addMigration(next, 'select pg_sleep(3600)')])
  const before = await observe()
  const half = await deploy(image('half'))
  const hanging = await deploy(image('hanging'), { DEPLOY_MIGRATE_WAIT: '8' })

  assert.match(
    half.stderr,
    /nonsense[^]*a migration failed, or took more than 20 s; everything is as it was before\n$/,
  )
  assert.match(
    hanging.stderr,
    /a migration failed, or took more than 8 s; everything is as it was before\n$/,
  )
  assert.deepEqual([half.status, hanging.status], [1, 1])
  assert.deepEqual(await observe(), before)
})

for (const [tag, what, lines] of [
  ['crashed', 'that crashes', ['CMD ["node", "-e", "process.exit(3)"]']],
  ['nonsense', 'whose command does not exist', ['CMD ["nonsense"]']],
  ['sick', 'whose health check fails', ['HEALTHCHECK --interval=1s CMD false']],
  ['starting', 'that never says how it is', ['HEALTHCHECK --start-period=1h CMD false']],
  ['unchecked', 'without a health check', ['HEALTHCHECK NONE']],
] as const) {
  test(`an image ${what} gives way to what ran before, its migration is rolled back`, async () => {
    await publish(tag, [...createTable(next), ...lines])
    const before = await observe()
    const { status, stderr } = await deploy(image(tag), { DEPLOY_WAIT: '10' })

    assert.match(stderr, / failed; everything is as it was before\n$/)
    assert.equal(status, 1)
    assert.deepEqual(await observe(), before)
  })
}

test('going back to the old container and schema needs --yes', async () => {
  await publish('better', createTable(next))
  const before = await observe()
  const deployed = await deploy(image('better'))
  const refused = await deploy('--roll-back')
  const older = await deploy(image('good'))
  const between = await observe()
  const back = await deploy('--roll-back', {}, '--yes')

  assert.equal(deployed.status, 0, deployed.stderr)
  assert.match(between.migrations, new RegExp(`^${next}_more unknown$`, 'm'))
  assert.equal(older.status, 1)
  assert.match(older.stderr, new RegExp(`${next}_more unknown\ndeploy: nothing changed`))
  assert.equal(between.containers.length, 2)
  assert.deepEqual([refused.status, back.status], [1, 0], back.stderr)
  assert.match(refused.stderr, /rolling back 1 migrations deletes the data .* pass --yes/)
  assert.deepEqual(await observe(), before)
})

test('the restricted key deploys by digest, rolls back, and can do nothing else', async () => {
  const withKey = { DEPLOY_KEY_FILE: join(folder, 'ci') }
  const before = await observe()
  const digests = await docker(
    'image',
    'inspect',
    '-f',
    '{{join .RepoDigests " "}}',
    image('better'),
  )
  await docker('tag', image('better'), `127.0.0.1:${registryPort}/other:better`)
  known.push(`127.0.0.1:${registryPort}/other:better`)
  const ssh = (command: string) =>
    run('ssh', [
      '-TF/dev/null',
      '-p' + sshd.port,
      `-i${withKey.DEPLOY_KEY_FILE}`,
      `-oUserKnownHostsFile=${join(folder, 'known')}`,
      `${userInfo().username}@127.0.0.1`,
      command,
    ])

  const commandsTried = ['id', 'bash -s', 'bash -s -- u:1 x', 'bash -s -- u:1;id', '']
  for (const { status, stdout, stderr } of await Promise.all(commandsTried.map(ssh))) {
    assert.equal(stderr, 'deploy: this key can deploy and roll back, and nothing else\n')
    assert.deepEqual({ status, stdout }, { status: 2, stdout: '' })
  }
  const other = await deploy(`127.0.0.1:${registryPort}/other:better`, withKey)
  assert.match(
    other.stderr,
    /nothing changed: this key can only deploy images of \S+user-service\n$/,
  )
  assert.equal(other.status, 1)
  assert.deepEqual(await observe(), before)

  const digest = digests.split(' ').find((each) => each.includes('/user-service@sha256:'))!
  const deployed = await deploy(digest, withKey)
  assert.equal(deployed.status, 0, deployed.stderr)
  assert.match(deployed.stderr, new RegExp(`its image ${digest}\n$`))
  const back = await deploy('--roll-back', withKey, '--yes')
  assert.equal(back.status, 0, back.stderr)
  assert.deepEqual(await observe(), before)
})

/** Waits until the new container runs, which is not healthy yet. */
async function untilReplaced() {
  for (let i = 0; i < 600; i++) {
    const { stdout } = await run('docker', [
      'container',
      'inspect',
      '-f',
      '{{.State.Status}}',
      'user-service-new',
    ])
    if (stdout === 'running\n') return
    await sleep(50)
  }
  assert.fail('the container was not replaced')
}

test('a deployment that loses its connection continues, and a second one is refused', async () => {
  const before = await observe()
  const child = spawn(join(root, 'bin/deploy.sh'), [image('starting')], {
    env: { ...process.env, ...deployEnv },
    stdio: 'ignore',
    detached: true,
  })
  await untilReplaced()
  process.kill(-child.pid!, 'SIGKILL')
  const second = await deploy(image('good'))
  const isThere = async () =>
    (await run('docker', ['container', 'inspect', 'user-service-new'])).status === 0
  for (let i = 0; i < 300 && (await isThere()); i++) await sleep(100)

  assert.match(second.stderr, /another deployment is running/)
  assert.deepEqual(await observe(), before)
})

test('a deployment that was killed on the instance is undone by the next one', async () => {
  const before = await observe()
  const child = spawn(join(root, 'bin/deploy.sh'), [image('starting')], {
    env: { ...process.env, ...deployEnv },
    stdio: 'ignore',
  })
  await untilReplaced()
  const processes = (await succeed('ps', ['-eo', 'pid=,ppid=']))
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
  const below = (pid: string): string[] =>
    processes.filter(([, parent]) => parent === pid).flatMap(([id]) => [id!, ...below(id!)])
  const exited = once(child, 'exit')
  // Whole groups, so that nothing which started meanwhile goes on; what ended meanwhile is no
  // matter.
  await run('kill', ['-KILL', '--', ...below(String(sshd.pid)).flatMap((pid) => [pid, `-${pid}`])])
  await exited
  assert.equal((await observe()).containers.length, 2)
  const { status, stderr } = await deploy(image('nowhere'))

  assert.match(
    stderr,
    /the deployment of \S+starting was cut short: restoring what ran before it\n/,
  )
  assert.equal(status, 1)
  assert.deepEqual(await observe(), before)
})

test('no password is an argument of any process during a deployment', async () => {
  const seen = new Set<string>()
  let deploying = true
  const watch = (async () => {
    while (deploying) {
      await sleep(5)
      for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
        try {
          seen.add(readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' '))
        } catch {} // it ended meanwhile
      }
    }
  })()
  const { status, stderr } = await deploy(image('better'))
  deploying = false
  await watch

  assert.equal(status, 0, stderr)
  assert.ok([...seen].some((line) => /docker login/.test(line)))
  assert.deepEqual(
    [...seen].filter((line) => /ci-token|-secret/.test(line)),
    [],
  )
  assert.equal(
    existsSync(join(userInfo().homedir, '.docker/config.json')) &&
      (await readFile(join(userInfo().homedir, '.docker/config.json'), 'utf8')).includes(
        `:${registryPort}`,
      ),
    false,
  )
})

test('with a certificate the image is healthy over HTTPS', async () => {
  const tls = join(folder, 'tls')
  const renew = () =>
    succeed('openssl', [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-subj',
      '/CN=users.example.org',
      '-keyout',
      join(tls, 'key.pem'),
      '-out',
      join(tls, 'cert.pem'),
    ]).then(() => chmod(join(tls, 'key.pem'), 0o644))
  const port = await freePort()
  async function findSerial() {
    const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false })
    await once(socket, 'secureConnect')
    const { serialNumber } = socket.getPeerCertificate()
    socket.destroy()
    return serialNumber
  }
  await mkdir(tls)
  await renew()
  await docker(
    'run',
    '-d',
    '--name',
    'user-service-try',
    '--read-only',
    '--cap-drop',
    'ALL',
    '--security-opt',
    'no-new-privileges',
    '--add-host',
    'host.docker.internal:host-gateway',
    '--env-file',
    join(config, 'env'),
    '--env',
    'TLS_CERT_FILE=/tls/cert.pem',
    '--env',
    'TLS_KEY_FILE=/tls/key.pem',
    '--env',
    'SERVER_PORT=443',
    '--env',
    'SERVER_BASE_PATH=/users-api/',
    '--volume',
    `${tls}:/tls:ro`,
    '--publish',
    `127.0.0.1:${port}:443`,
    '--health-interval',
    '1s',
    image('better'),
  )
  let health = ''
  for (let i = 0; i < 20 && health !== 'healthy'; i++) {
    await sleep(500)
    health = await inspect('user-service-try', '{{.State.Health.Status}}')
  }
  const before = await findSerial()
  await renew()
  await docker('kill', '--signal', 'HUP', 'user-service-try')
  let renewed = before
  for (let i = 0; i < 20 && renewed === before; i++) {
    await sleep(100)
    renewed = await findSerial()
  }
  await docker('rm', '-f', 'user-service-try')

  assert.equal(health, 'healthy')
  assert.notEqual(renewed, before)
})

for (const host of ['::1', '127.0.0.2', '0.0.0.0', '::']) {
  test(`a service that listens on ${host} is healthy`, async () => {
    const settings = ['--env', `SERVER_HOST=${host}`, '--env', 'SERVER_PORT=8080']
    await docker(
      ...['run', '-d', '--name', 'user-service-try', '--health-interval', '1s'],
      ...['--add-host', 'host.docker.internal:host-gateway', '--env-file', join(config, 'env')],
      ...['--sysctl', 'net.ipv6.conf.lo.disable_ipv6=0'],
      ...settings,
      image('better'),
    )
    await until(`the service on ${host} is healthy`, async () => {
      return (await inspect('user-service-try', '{{.State.Health.Status}}')) === 'healthy'
    })
    await docker('rm', '-f', 'user-service-try')
  })
}

test('the service answers SIGTERM within the time limit, with exit status 0', async () => {
  const startedAt = Date.now()
  await docker('stop', 'user-service')
  const passed = Date.now() - startedAt

  assert.equal(await inspect('user-service', '{{.State.ExitCode}}'), '0')
  assert.ok(passed < 5000, `${passed} ms`)
})
