// Clients that seven generators make of the document: each is compiled, and a program with it does
// what users and admins do. They are fetched from PyPI, npm, Maven Central and Go's proxy, and need
// Python, Java, Maven and Go. CLIENTS=python,typescript runs those alone.
import assert from 'node:assert/strict'
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { showCode } from '../support/authenticator.ts'
import { password, signing, startTestApp, undo } from '../support/helpers.ts'
import { root, succeed } from '../support/process.ts'

const versions = {
  'openapi-generator-cli': '7.26.0',
  'openapi-python-client': '0.29.1',
  'oapi-codegen': '2.8.2',
  typescript: '5.9.3',
  'openapi-typescript': '7.13.0',
  'openapi-fetch': '0.17.0',
}

const languages = process.env['CLIENTS']?.split(',') ?? ['python', 'typescript', 'go', 'java']

const folder = mkdtempSync(join(tmpdir(), 'user-service-clients-'))
undo.push(() => rmSync(folder, { recursive: true, force: true }))
const app = await startTestApp({ RATE_LIMIT: '0', ...signing })
const admin = await app.admin()
const document = join(folder, 'openapi.json')
writeFileSync(document, (await app.request('GET', '/openapi.json')).text)

/** A folder for one client, with its program in it. */
function folderFor(program: string, files: Record<string, string> = {}): string {
  const own = mkdtempSync(join(folder, 'client-'))
  copyFileSync(join(root, 'test/system/clients', program), join(own, program))
  for (const [name, text] of Object.entries(files)) writeFileSync(join(own, name), text)
  return own
}

let venv: Promise<string> | undefined

/** Where programs of Python are, with the generators that are. */
function python(): Promise<string> {
  venv ??= installPython()
  return venv
}

async function installPython(): Promise<string> {
  const path = join(folder, 'venv')
  await succeed('python3', ['-m', 'venv', path])
  const packages = (['openapi-generator-cli', 'openapi-python-client'] as const).map(
    (name) => `${name}==${versions[name]}`,
  )
  await succeed(join(path, 'bin/pip'), ['install', '--only-binary', ':all:', ...packages])
  return join(path, 'bin')
}

/** Generates with openapi-generator, into a folder. */
async function generate(generator: string, output: string, options: string[] = []) {
  const program = join(await python(), 'openapi-generator-cli')
  const named = ['-g', generator, '-i', document, '-o', output]
  const log = await succeed(program, ['generate', ...named, ...options])
  assert.doesNotMatch(log, /error/i)
}

/** A user who has a second factor, and a recovery code. */
async function makeProtected() {
  const { email } = await app.user()
  const login = await app.request('POST', '/users/sessions', { body: { email, password } })
  const { key } = login.details
  const { secret } = (await app.request('POST', '/users/me/factor', { key })).details
  const body = { code: await showCode(app.db, secret) }
  const confirmed = await app.request('POST', '/users/me/factor/confirm', { key, body })
  return { PROTECTED: email, CODE: confirmed.details.recoveryCodes[0] as string }
}

/** Runs a program that prints what happened, and holds it against what must. */
async function runDay(program: string, args: string[]) {
  const email = `ada${process.hrtime.bigint()}@example.org`
  const env = { BASE: app.base, ADMIN_KEY: admin.key, EMAIL: email, ...(await makeProtected()) }
  const day = JSON.parse(await succeed(program, args, env))
  assert.deepEqual(day, {
    read: email,
    allowed: ['orders:read'],
    renamed: [`x${email}`, ['orders:read'], 3],
    listed: [`x${email}`],
    session: [true, 'usk_'],
    twoSteps: [true, 'ust_', 'usk_', true],
    rotated: ['default', true, 'usk_'],
    refused: [401, 'key_invalid'],
    missing: [404, 'user_not_found'],
    faulty: [400, 'invalid_password'],
  })
}

async function runPython() {
  const own = folderFor('main.py')
  await generate('python', join(own, 'client'))
  const bin = await python()
  await succeed(join(bin, 'pip'), ['install', '--quiet', join(own, 'client')])
  await runDay(join(bin, 'python'), [join(own, 'main.py')])
}

async function runTypedPython() {
  const own = folderFor('typed.py')
  const bin = await python()
  const output = ['--output-path', join(own, 'client'), '--meta', 'none', '--fail-on-warning']
  // It formats what it makes with a program that was installed beside it.
  const env = { PATH: `${bin}:${process.env['PATH']}` }
  const program = join(bin, 'openapi-python-client')
  await succeed(program, ['generate', '--path', document, ...output], env)
  await runDay(join(bin, 'python'), [join(own, 'typed.py')])
}

const strict = { strict: true, target: 'es2022', lib: ['es2022', 'dom', 'dom.iterable'], types: [] }

/** Installs packages of npm into a folder; returns where their programs are. */
async function npm(own: string, packages: (keyof typeof versions)[]): Promise<string> {
  const named = packages.map((name) => `${name}@${versions[name]}`)
  const quiet = ['--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']
  await succeed('npm', ['install', '--prefix', own, ...quiet, ...named])
  return join(own, 'node_modules/.bin')
}

async function runFetch() {
  const compilerOptions = {
    ...strict,
    module: 'commonjs',
    moduleResolution: 'node10',
    outDir: 'out',
  }
  const own = folderFor('fetch.ts', {
    'package.json': '{}',
    'tsconfig.json': JSON.stringify({ compilerOptions, files: ['fetch.ts'] }),
  })
  await generate('typescript-fetch', join(own, 'client'))
  const bin = await npm(own, ['typescript'])
  await succeed(join(bin, 'tsc'), ['-p', own])
  await runDay(process.execPath, [join(own, 'out/fetch.js')])
}

async function runTypes() {
  const compilerOptions = {
    ...strict,
    exactOptionalPropertyTypes: true,
    module: 'nodenext',
    rewriteRelativeImportExtensions: true,
    outDir: 'out',
  }
  const own = folderFor('types.ts', {
    'package.json': '{ "type": "module" }',
    'tsconfig.json': JSON.stringify({ compilerOptions, files: ['types.ts'] }),
  })
  const bin = await npm(own, ['typescript', 'openapi-typescript', 'openapi-fetch'])
  await succeed(join(bin, 'openapi-typescript'), [document, '-o', join(own, 'schema.ts')])
  await succeed(join(bin, 'tsc'), ['-p', own])
  await runDay(process.execPath, [join(own, 'out/types.js')])
}

const goModule = `module example.org/clients

go 1.23

require (
  github.com/google/uuid v1.6.0
  github.com/oapi-codegen/runtime v1.9.0
  gopkg.in/validator.v2 v2.0.1
)
`

/** Compiles the program in a folder, with the client in `api`, and runs it. */
async function runGo(own: string) {
  await succeed('go', ['-C', own, 'mod', 'tidy'])
  await succeed('go', ['-C', own, 'vet', './...'])
  await succeed('go', ['-C', own, 'build', '-o', 'program', '.'])
  await runDay(join(own, 'program'), [])
}

async function runGeneratedGo() {
  const own = folderFor('main.go', { 'go.mod': goModule })
  const options = ['--additional-properties', 'packageName=api,withGoMod=false']
  await generate('go', join(own, 'api'), [...options, '--global-property', 'apiTests=false'])
  rmSync(join(own, 'api/test'), { recursive: true, force: true })
  await runGo(own)
}

async function runOapi() {
  const own = folderFor('oapi.go', { 'go.mod': goModule })
  mkdirSync(join(own, 'api'))
  const version = versions['oapi-codegen']
  const program = `github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v${version}`
  const options = ['-generate', 'types,client', '-package', 'api', '-o', join(own, 'api/api.go')]
  await succeed('go', ['run', program, ...options, document])
  await runGo(own)
}

async function runJava() {
  const own = folderFor('Main.java')
  // So that a parameter more changes no signature.
  const parameters = ['--additional-properties', 'useSingleRequestParameter=true']
  await generate('java', join(own, 'client'), ['--library', 'native', ...parameters])
  const libraries = ['-DincludeScope=compile', `-DoutputDirectory=${join(own, 'lib')}`]
  const pom = join(own, 'client/pom.xml')
  await succeed('mvn', ['-q', '-B', '-f', pom, 'dependency:copy-dependencies', ...libraries])
  const sources = readdirSync(join(own, 'client/src/main/java'), { recursive: true })
    .filter((name) => String(name).endsWith('.java'))
    .map((name) => join(own, 'client/src/main/java', String(name)))
  const classes = join(own, 'classes')
  const path = `${join(own, 'lib')}/*`
  await succeed('javac', ['-d', classes, '-cp', path, ...sources, join(own, 'Main.java')])
  await runDay('java', ['-cp', `${classes}:${path}`, 'Main'])
}

/** Each with its language, by which CLIENTS names it. */
const clients: [language: string, name: string, run: () => Promise<void>][] = [
  ['python', 'openapi-generator for Python', runPython],
  ['python', 'openapi-python-client', runTypedPython],
  ['typescript', 'openapi-generator for TypeScript and fetch', runFetch],
  ['typescript', 'openapi-typescript and openapi-fetch', runTypes],
  ['go', 'openapi-generator for Go', runGeneratedGo],
  ['go', 'oapi-codegen', runOapi],
  ['java', 'openapi-generator for Java', runJava],
]
for (const [language, name, run] of clients) {
  if (languages.includes(language)) test(`${name} makes a client that works`, run)
}
