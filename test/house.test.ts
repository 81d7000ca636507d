// The rules of the house, checked line by line; each is shown to fire on a bad sample first.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const top = fileURLToPath(new URL('..', import.meta.url))
const read = (path: string) => readFileSync(join(top, path), 'utf8')
const listed = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
  cwd: top,
  encoding: 'utf8',
})
const files = listed.trim().split('\n')
const under = (...folders: string[]) =>
  files.filter((path) => folders.some((folder) => path.startsWith(`${folder}/`)))
const sources = under('src').filter((path) => path.endsWith('.ts') && !path.endsWith('.d.ts'))
const typescript = [...sources, ...under('test').filter((path) => path.endsWith('.ts'))]

/** The floor a file is on; imports point to a lower one, or stay in their folder. */
const floors: [RegExp, number][] = [
  [/^src\/errors\.ts$/, 0],
  [/^src\/(schema|log|settings)\.ts$/, 1],
  [/^src\/config\.ts$/, 2],
  [/^src\/(http|database)\//, 3],
  [/^src\/audit\//, 4],
  [/^src\/keys\//, 5],
  [/^src\/passwords\//, 6],
  [/^src\/users\//, 7],
  [/^src\/sessions\//, 8],
  [/^src\/gateway\//, 8],
  [/^src\/operation\//, 9],
  [/^src\/routes\.ts$/, 10],
  [/^src\/app\.ts$/, 11],
  [/^src\/(main\.ts$|commands\/)/, 12],
]
const floorOf = (path: string) => floors.find(([pattern]) => pattern.test(path))?.[1]

function findImportFaults(path: string, text: string): string[] {
  const faults: string[] = []
  for (const [, specifier = ''] of text.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)) {
    if (!specifier.startsWith('.')) {
      if (!/^(node:|pg$)/.test(specifier)) faults.push(`${path} imports ${specifier}`)
      continue
    }
    const target = normalize(join(dirname(path), specifier))
    const [from, to] = [floorOf(path), floorOf(target)]
    const sameFolder = dirname(target) === dirname(path) && dirname(path) !== 'src'
    if (from === undefined || to === undefined || (to >= from && !sameFolder))
      faults.push(`${path} imports ${target}`)
    if (path.startsWith('src/commands/') && /^src\/(http|routes|app)/.test(target))
      faults.push(`${path} imports ${target}`)
  }
  return faults
}

test('imports point down, and outside to Node and pg alone', () => {
  for (const [path, line] of [
    ['src/errors.ts', `import { x } from './config.ts'`],
    ['src/http/body.ts', `import x from '../users/routes.ts'`],
    ['src/http/body.ts', `import x from '../database/pool.ts'`],
    ['src/keys/queries.ts', `import x from '../users/queries.ts'`],
    ['src/log.ts', `import x from 'express'`],
    ['src/commands/backup.ts', `import x from '../http/server.ts'`],
    ['src/new.ts', `import x from './log.ts'`],
    ['src/app.ts', `await import('./main.ts')`],
  ] as const)
    assert.equal(findImportFaults(path, line).length > 0, true, `${path}: ${line}`)
  assert.deepEqual(
    sources.flatMap((path) => findImportFaults(path, read(path))),
    [],
  )
})

const lineRules: [name: string, pattern: RegExp, sample: string][] = [
  [
    'no semicolon at the end of a line',
    /^\s*(const|let|return|import|export|await|throw)\b[^`]*;$/,
    'const a = 1;',
  ],
  ['single quotes', /[=(,:] ?"[^"'`]*"[,);]?$/, 'const a = "b"'],
  ['no tab, no white space at the end', /\t|\s$/, 'const a = 1 '],
  ['at most 120 columns', /^.{121}/, 'x'.repeat(121)],
  ['no default export', /^export default /, 'export default x'],
  [
    'no enum, namespace or parameter property',
    /^\s*(export )?(enum|namespace) |constructor\((public|private|readonly)/,
    'enum A {',
  ],
  ['no any', /\w: any\b|as any\b/, 'let a: any'],
  [
    'no unfinished mark',
    new RegExp(['TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX'].join('|')),
    `// ${'TO' + 'DO'}`,
  ],
]
for (const [name, pattern, sample] of lineRules) {
  test(`sources: ${name}`, () => {
    assert.match(sample, pattern)
    const found = sources.flatMap((path) =>
      read(path)
        .split('\n')
        .flatMap((line, index) =>
          pattern.test(line) ? [`${path}:${index + 1}: ${line.trim()}`] : [],
        ),
    )
    assert.deepEqual(found, [])
  })
}

test('SQL is in queries, in commands and under src/database alone', () => {
  const pattern = /`\s*(select|insert into|update|delete from) /
  assert.match('db.query(`select 1`)', pattern)
  const allowed =
    /queries\.ts$|^src\/(database|commands)\/|^src\/users\/first-admin\.ts$|^src\/(passwords\/check|keys\/acting)\.ts$/
  assert.deepEqual(
    sources.filter((path) => !allowed.test(path) && pattern.test(read(path))),
    [],
  )
})

test('every export says in one sentence what it promises', () => {
  const findBare = (text: string) =>
    [...text.matchAll(/(^|\n)([^\n]*)\nexport (?:async )?function (\w+)/g)]
      .filter(([, , before]) => !/\*\/$/.test(before!))
      .map(([, , , name]) => name)
  assert.deepEqual(findBare('\n\nexport function bare() {}'), ['bare'])
  const simple = ['boolean', 'oneOf', 'nullable']
  assert.deepEqual(
    sources.flatMap((path) => findBare(read(path))).filter((name) => !simple.includes(name!)),
    [],
  )
})

test('four packages, one of them at run time', () => {
  const { dependencies, devDependencies, ...rest } = JSON.parse(read('package.json'))
  assert.deepEqual(Object.keys(dependencies), ['pg'])
  assert.deepEqual(Object.keys(devDependencies), ['@types/node', 'tsx', 'typescript'])
  assert.deepEqual(
    [rest.optionalDependencies, rest.peerDependencies, rest.bundledDependencies],
    [undefined, undefined, undefined],
  )
  assert.doesNotMatch(read('package-lock.json'), /"resolved"|https?:\/\/registry/)
})

test('the top level holds what was agreed', () => {
  const names = [...new Set(files.map((path) => path.split('/')[0]!))].sort()
  assert.deepEqual(names, [
    '.ci',
    '.dockerignore',
    '.editorconfig',
    '.github',
    '.gitignore',
    'Dockerfile',
    'LICENSE',
    'README.md',
    'bin',
    'package-lock.json',
    'package.json',
    'sql',
    'src',
    'test',
    'tsconfig.json',
  ])
})

test('no test is skipped or left to do', () => {
  const pattern = new RegExp(
    String.raw`\b(test|it|describe)\.(${['sk' + 'ip', 'to' + 'do', 'on' + 'ly'].join('|')})\b`,
  )
  assert.match(`test.${'sk' + 'ip'}('x')`, pattern)
  assert.deepEqual(
    typescript.filter((path) => pattern.test(read(path))),
    [],
  )
})

test('the README shows the gateways’ configurations as they are tested', () => {
  const readme = read('README.md')
  const configurations = under('bin/gateways').filter((path) => !path.endsWith('.md'))
  assert.ok(configurations.length >= 5)
  assert.deepEqual(
    configurations.filter((path) => !readme.includes(read(path).trim())),
    [],
  )
})
