// The rules of the house. Each is shown to fire on a bad sample before it is applied to the code.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { mutations } from './mutations.ts'
import {
  blank,
  countBranches,
  countMembers,
  eitherOf,
  findCommaOperators,
  findFunctions,
  findInnerAssignments,
  findManyArguments,
  findNestedConditionals,
  lineOf,
  sizeOf,
} from './support/reading.ts'

const top = fileURLToPath(new URL('..', import.meta.url))
const read = (path: string) => readFileSync(join(top, path), 'utf8')
const listed = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
  cwd: top,
  encoding: 'utf8',
})
const files = listed
  .trim()
  .split('\n')
  .filter((path) => existsSync(join(top, path)))
const under = (...folders: string[]) =>
  files.filter((path) => folders.some((folder) => path.startsWith(`${folder}/`)))
const sources = under('src').filter((path) => /(?<!\.d)\.ts$/.test(path))
const typescript = [...sources, ...under('test').filter((path) => path.endsWith('.ts'))]
const readmes = files.filter((path) => path.endsWith('.md'))
const written = [...new Set([...under('src', 'bin', 'sql', 'test'), ...readmes])].filter(
  (path) => !/\.(txt|png)$/.test(path),
)

/**
 * Where a rule does not hold: a setting is read by its name, its value if it is not given, and its
 * bounds, one after another.
 */
const exceptions: Record<string, string[]> = {
  'at most three arguments': ['src/environment.ts'],
}

/** Fails unless `find`, given a path and its text, finds nothing in any of the files. */
function hold(rule: string, paths: string[], find: (path: string, text: string) => string[]) {
  const faults: string[] = []
  for (const path of paths) {
    if (exceptions[rule]?.some((room) => room === path || room === dirname(path))) continue
    faults.push(...find(path, read(path)))
  }
  assert.deepEqual(faults, [])
}

/** The lines of a text for which `isBad` holds, each with where it is. */
function findLines(path: string, text: string, isBad: (line: string) => boolean): string[] {
  const found: string[] = []
  for (const [index, line] of text.split('\n').entries()) {
    if (isBad(line)) found.push(`${path}:${index + 1}: ${line.trim()}`)
  }
  return found
}

/** The floor a file is on; imports point to a lower one, or stay in their folder. */
const floors: [RegExp, number][] = [
  [/^src\/errors\.ts$/, 0],
  [/^src\/(schema|log|queue|environment|events)\.ts$/, 1],
  [/^src\/secrets\//, 1.5],
  [/^src\/config\.ts$/, 2],
  [/^src\/(http|database)\//, 3],
  [/^src\/audit\//, 4],
  [/^src\/keys\//, 5],
  [/^src\/passwords\//, 6],
  [/^src\/(tokens|webhooks)\/queries\.ts$/, 6],
  [/^src\/foreign\//, 6],
  [/^src\/users\//, 7],
  [/^src\/tokens\//, 8],
  [/^src\/sessions\//, 8],
  [/^src\/gateway\//, 8],
  [/^src\/webhooks\//, 8.5],
  [/^src\/(factors|signing|moving)\//, 8.5],
  [/^src\/operation\//, 9],
  [/^src\/routes\.ts$/, 10],
  [/^src\/app\.ts$/, 11],
  [/^src\/(main\.ts$|commands\/)/, 12],
]
const floorOf = (path: string) => floors.find(([pattern]) => pattern.test(path))?.[1]

function findImportFaults(path: string, text: string): string[] {
  const faults: string[] = []
  for (const [, specifier = ''] of text.matchAll(/(?:from|(?<!')import)\s*\(?\s*'([^']+)'/g)) {
    if (!specifier.startsWith('.')) {
      if (!/^(node:|pg$)/.test(specifier)) faults.push(`${path} imports ${specifier}`)
      continue
    }
    const target = normalize(join(dirname(path), specifier))
    const from = floorOf(path)
    const to = floorOf(target)
    const isSameFolder = dirname(target) === dirname(path) && dirname(path) !== 'src'
    const isDown = from !== undefined && to !== undefined && to < from
    const isForbidden = path.startsWith('src/commands/') && /^src\/(http|routes|app)/.test(target)
    if ((!isDown && !isSameFolder) || isForbidden) faults.push(`${path} imports ${target}`)
  }
  return faults
}

test('imports point down, and outside to Node and pg alone', () => {
  const samples = [
    ['src/errors.ts', `import { x } from './config.ts'`],
    ['src/http/body.ts', `import x from '../users/routes.ts'`],
    ['src/http/body.ts', `import x from '../database/pool.ts'`],
    ['src/keys/queries.ts', `import x from '../users/queries.ts'`],
    ['src/log.ts', `import x from 'express'`],
    ['src/commands/backup.ts', `import x from '../http/server.ts'`],
    ['src/new.ts', `import x from './log.ts'`],
    ['src/app.ts', `await import('./main.ts')`],
    ['src/passwords/hasher.ts', `import x from '../foreign/hashes.ts'`],
  ] as const
  for (const [path, line] of samples) {
    assert.equal(findImportFaults(path, line).length > 0, true, `${path}: ${line}`)
  }
  assert.deepEqual(
    sources.flatMap((path) => findImportFaults(path, read(path))),
    [],
  )
})

interface LineRule {
  name: string
  pattern: RegExp
  /** Matched against each line: as it is, or with comments and the inside of strings blanked. */
  of: 'text' | 'code'
  bad: string[]
  good: string[]
}
const unfinished = new RegExp(['TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX'].join('|'))
const lineRules: LineRule[] = [
  {
    name: 'no semicolon at the end of a line',
    pattern: /;$/,
    of: 'code',
    bad: ['const a = 1;'],
    good: ["const a = 'b;'"],
  },
  {
    name: 'one statement a line',
    pattern: eitherOf(
      /; (const|let|return|throw|await|if|for|while)\b/,
      /^(?!\s*for ).*; [\w.]+\((?![^()]*\)[?:])/,
      /\{ (const|let|return|throw|await|if|for) /,
    ),
    of: 'code',
    bad: ['if (a) { return b }', 'a(); b()', 'for (; a; await b()) {', 'let a; const b = 1'],
    good: ['for (let i = 0; i < size(); i++) {', 'type A = { b: string; c(d: string): void }'],
  },
  {
    name: 'single quotes',
    pattern: /[=(,:] ?"[^"'`]*"[,);]?$/,
    of: 'text',
    bad: ['const a = "b"'],
    good: [`const a = "b's"`],
  },
  {
    name: 'no tab, no white space at the end',
    pattern: /\t|\s$/,
    of: 'text',
    bad: ['const a = 1 ', '\tconst a = 1'],
    good: ['  const a = 1'],
  },
  {
    name: 'no default export',
    pattern: /^export default |\bas default\b/,
    of: 'code',
    bad: ['export default x', 'export { x as default }'],
    good: ['export const x = 1'],
  },
  {
    name: 'no enum, namespace or parameter property',
    pattern: eitherOf(
      /^\s*((export|declare|const) )*(enum|namespace) /,
      /(constructor\(.*|^\s+)\b(public|private|protected) /,
    ),
    of: 'code',
    bad: ['enum A {', 'export const enum A {', 'constructor(a: A, private b: B) {', '  private b,'],
    good: ['constructor(a: A) {'],
  },
  {
    name: 'no array made only to be taken apart',
    pattern: /^\s*((const|let) )?\[.*\] = \[|^\s*\] = \[/,
    of: 'code',
    bad: ['const [a, b] = [1, 2]', '[a, b] = [b, a]', '] = ['],
    good: ['const [a, b] = await Promise.all([', 'rows[a] = [b]'],
  },
  {
    name: 'no positional hole',
    pattern: /\[[^[\]]*, ,|\[, ,/,
    of: 'code',
    bad: ['const [a, , b] = c', 'const [, , a] = b'],
    good: ['const [, a] = b'],
  },
  {
    name: 'no unfinished mark',
    pattern: unfinished,
    of: 'text',
    bad: [`// ${'TO' + 'DO'}`],
    good: ['// done'],
  },
]
for (const { name, pattern, of, bad, good } of lineRules) {
  test(`TypeScript: ${name}`, () => {
    const isBad = (line: string) => pattern.test(of === 'code' ? blank(line) : line)
    for (const line of bad) assert.equal(isBad(line), true, line)
    for (const line of good) assert.equal(isBad(line), false, line)
    hold(name, typescript, (path, text) => {
      const lines = of === 'code' ? blank(text) : text
      return findLines(path, lines, (line) => pattern.test(line))
    })
  })
}

interface CodeRule {
  name: string
  /** Gives the offsets at which blanked code breaks the rule. */
  find: (code: string) => number[]
  bad: string[]
  good: string[]
}
const codeRules: CodeRule[] = [
  {
    name: 'at most one conditional operator an expression',
    find: findNestedConditionals,
    bad: ['a ? b : c ? d : e', 'a\n  ? (b ? c : d)\n  : e', 'a ? f({ b: c ? d : e }) : g'],
    good: [
      'f(a ? b : c, d ? e : f)',
      'a ? b : c\nd ? e : f',
      'type A<B> = B extends C ? D : B extends E ? F : G',
    ],
  },
  {
    name: 'no assignment inside an expression',
    find: findInnerAssignments,
    bad: ['return (a ??= b())', 'a.map((b) => (c = b))', 'while ((a = b())) c()', 'a[(b = c)]'],
    good: ['for (let i = 0; i < 9; i++) a()', 'function f(a = 1, [b = 2] = []) {', 'a = (b) => c'],
  },
  {
    name: 'no comma operator',
    find: findCommaOperators,
    bad: ['const f = () => (a(), b)', 'return (await a(), false)'],
    good: [
      'const f = (a: Record<A, B>, b: B) => a',
      'await f(a, b)',
      'f!(a, b)',
      'a?.f<A, B>(a, b)',
    ],
  },
  {
    name: 'at most three arguments',
    find: findManyArguments,
    bad: [
      'function f(a: A, { b, c }: B, d = (e, g), h: H) {',
      'interface F { f(a: A, b: B, c: C, d: D): void }',
      'const f = async (a, b, c, d) => a',
    ],
    good: ['f(a, b, c, d)', 'function f(a: Record<A, B>, { b, c, d }: B, e: E) {'],
  },
]
for (const { name, find, bad, good } of codeRules) {
  test(`TypeScript: ${name}`, () => {
    for (const code of bad) assert.equal(find(code).length, 1, code)
    for (const code of good) assert.deepEqual(find(code), [], code)
    hold(name, typescript, (path, text) => {
      const code = blank(text)
      const lines = text.split('\n')
      const found = find(code).map((at) => lineOf(code, at))
      return found.map((line) => `${path}:${line}: ${lines[line - 1]!.trim()}`)
    })
  })
}

test('at most 100 columns, but for what cannot be broken', () => {
  // A word of 80 characters, a row or a link's address in a README.
  const isUnbreakable = (line: string) => /\S{80}|^\s*\|.*\|$|^\[.*\]: /.test(line)
  const findWide = (path: string, text: string) => {
    let isFenced = false
    return findLines(path, text, (line) => {
      if (path.endsWith('.md') && /^\s*```/.test(line)) isFenced = !isFenced
      return [...line].length > 100 && !isFenced && !isUnbreakable(line)
    })
  }
  const wide = 'b '.repeat(51).trim()
  const call = `test('${wide}', async () => {`
  for (const line of [wide, `/** ${wide} */`, call, `  '${wide}',`, `  /${wide}/i,`])
    assert.equal(findWide('a.ts', line).length, 1, line)
  assert.deepEqual(findWide('a.md', `\`\`\`\n${wide}\n\`\`\`\n| ${wide} |`), [])
  // Applied as it is: another text would be another migration.
  const applied = 'sql/0001_users.up.sql'
  const others = written.filter((path) => path !== applied)
  hold('at most 100 columns', others, findWide)
})

test('a list that does not fit one line has one member a line', () => {
  const find = (path: string, text: string) =>
    findLines(path, blank(text), (line) => countMembers(line) > 1)
  assert.deepEqual(find('a.ts', 'f(\n  a, b,\n  c(d, e),\n)'), ['a.ts:2: a, b,'])
  hold('one member a line', typescript, find)
})

test('one import a module', () => {
  const findDouble = (path: string, text: string) => {
    const modules = [...text.matchAll(/^(?:import|\}) .*from '([^']+)'$/gm)].map(([, name]) => name)
    const double = modules.filter((name, index) => modules.indexOf(name) !== index)
    return double.map((name) => `${path}: ${name}`)
  }
  const bad = `import { a } from 'a'\nimport type {\n  b,\n} from 'a'`
  assert.deepEqual(findDouble('x.ts', bad), ['x.ts: a'])
  hold('one import a module', typescript, findDouble)
})

test('a function has at most 60 lines and 15 branches', () => {
  const findLarge = (path: string, text: string) => {
    const large = findFunctions(blank(text)).filter(
      ({ lines, branches }) => lines > 60 || branches > 15,
    )
    return large.map(
      ({ name, line, lines, branches }) =>
        `${path}:${line} ${name}: ${lines} lines, ${branches} branches`,
    )
  }
  const inner = `  const g = () => {\n${'    a()\n'.repeat(59)}  }\n`
  assert.deepEqual(findLarge('a.ts', `function f() {\n${'  a()\n'.repeat(59)}}`), [
    'a.ts:1 f: 61 lines, 1 branches',
  ])
  assert.deepEqual(findLarge('a.ts', `function f() {\n${inner}${inner}}`), [
    'a.ts:2 g: 61 lines, 1 branches',
    'a.ts:63 g: 61 lines, 1 branches',
  ])
  assert.deepEqual(
    findLarge('a.ts', `async function f(\n  a: A,\n) {\n  ${'a ?? '.repeat(15)}b\n}`),
    ['a.ts:3 f: 3 lines, 16 branches'],
  )
  assert.equal(countBranches('if (a && b) c = d ? e : f ?? g?.h'), 6)
  hold('the size of functions', typescript, findLarge)
})

test('no any, said or implied', () => {
  const implied = /\.(catch\(|then\(.*, )(async )?(\([^:()]+\)|\w+) =>/
  const said = /[\w)\]]\??: any\b|\bas any\b|<any\b|, any>/
  const isBad = (line: string) => said.test(line) || implied.test(line)
  const bad = [
    'let a: any',
    'a.catch((error) => b)',
    'a.catch(({ code }) => b)',
    'a.then((b) => b, (error) => c)',
    'function f(): any {',
    'const a = new Map<string, any>()',
  ]
  for (const line of bad) assert.equal(isBad(line), true, line)
  assert.equal(isBad('a.catch((error: unknown) => b)'), false)
  // Handlers take narrower calls than the pipeline knows of.
  const isMeant = (line: string) => line.startsWith('export type Route = ')
  hold('no any', sources, (path, text) =>
    findLines(path, blank(text), (line) => isBad(line) && !isMeant(line)),
  )
})

test('SQL is in queries, in commands and under src/database alone', () => {
  const pattern = eitherOf(
    /['"`]\s*(select|insert into|update \w+ set|delete from|with \w+ as)\b/,
    /['"`]\s*(lock table|truncate|create (table|role)|alter|grant)\b/,
  )
  const bad = ['query(`\n  select 1`)', `query('select')`, 'query("update a set b = 1")']
  for (const sample of bad) assert.match(sample, pattern)
  const allowed = /queries\.ts$|^src\/(database|commands)\//
  const elsewhere = sources.filter((path) => !allowed.test(path))
  hold('SQL in queries', elsewhere, (path, text) => (pattern.test(text) ? [path] : []))
})

test('every exported value says in one sentence what it promises', () => {
  const exported =
    /(?<before>^|[^\n]*\n)export (?:async )?(?:function\*?|const|let|class) (?<name>\w+)/g
  const findBare = (path: string, text: string) => {
    const bare = [...text.matchAll(exported)].filter(
      ({ groups }) => !/\*\/\n$/.test(groups!['before']!),
    )
    return bare.map(({ groups }) => `${path}: ${groups!['name']}`)
  }
  const samples =
    'export function bare() {}\n\nexport const f = () => 1\n/** Good. */\nexport const g = 1'
  assert.deepEqual(findBare('a.ts', samples), ['a.ts: bare', 'a.ts: f'])
  hold('a sentence for every export', sources, findBare)
})

test('each room opens with two lines that say what it owns', () => {
  const opens = (text: string) => /^\/\/ .+\n\/\/ /.test(text)
  assert.equal(opens('// One line.\nimport a'), false)
  const rooms = [...new Set(sources.map(dirname))].filter((room) => room !== 'src')
  const isOpen = (room: string) =>
    sources.some((path) => dirname(path) === room && opens(read(path)))
  const closed = rooms.filter((room) => !exceptions['rooms']?.includes(room) && !isOpen(room))
  assert.deepEqual(closed, [])
})

test('messages, comments and READMEs are in plain English', () => {
  const words = eitherOf(
    /\banew\b|\bfor want of\b|\bta(?:kes?|ken) (?:\w+ )*back\b/i,
    /\btakes no words\b|\bsay --|\bgoes on without\b|\bgives? back\b/i,
  )
  const beginning = String.raw`(?:^\s*(?:\/\/|--|#|\/?\*\*?) |[.:;] )`
  const headless = new RegExp(
    `${beginning}(?:Who|What)ever |${beginning}Who ` +
      '(?:has|had|does|did|gets|got|comes|reads|wants|starts|asks)\\b(?!.*\\?)',
  )
  const isBad = (line: string) => words.test(line) || headless.test(line)
  const bad = [
    '// Whoever reads the log may go away',
    ' * Good. Who gets no place is told at once',
    'is stored anew',
    'takes no words: see',
    '1 migration taken back',
    'takes 1 migrations back',
    'say --yes to go ahead',
  ]
  for (const line of bad) assert.equal(isBad(line), true, line)
  for (const line of ['/** Who may call. */', 'Who has read this?', 'pass --yes']) {
    assert.equal(isBad(line), false, line)
  }
  const others = written.filter((path) => path !== 'test/house.test.ts')
  hold('plain English', others, (path, text) => findLines(path, text, isBad))
})

test('the name of a test is one sentence of at most 85 characters', () => {
  const named = /^\s*test\(\s*(?<quote>['`])(?<name>.*?)\k<quote>, /gm
  const findBad = (path: string, text: string) => {
    const names = [...text.matchAll(named)].map(({ groups }) => groups!['name']!)
    const bad = names.filter(
      (name) => name.length > 85 || /^(nor|and|but|also)\b|; .*, /.test(name),
    )
    return bad.map((name) => `${path}: ${name}`)
  }
  const bad = [
    `test('nor is it', () => {`,
    `test('${'a'.repeat(86)}', () => {`,
    'test(`a; b, c`, f)',
  ]
  for (const line of bad) assert.equal(findBad('a.ts', line).length, 1, line)
  assert.deepEqual(findBad('a.ts', `test('a key works until it ends', () => {`), [])
  hold('names of tests', under('test'), findBad)
})

test('shell scripts join at most two commands a line', () => {
  const isJoined = (line: string) => {
    const commands = line.replace(/\[\[.*?\]\]|'[^']*'/g, '')
    return !/^\s*#/.test(line) && [...commands.matchAll(/&&|\|\|/g)].length > 1
  }
  assert.equal(isJoined('a && b || c'), true)
  assert.equal(isJoined('[[ a && b ]] || c'), false)
  const scripts = files.filter((path) => path.endsWith('.sh') || path === '.ci/run')
  hold('commands a line', scripts, (path, text) => findLines(path, text, isJoined))
})

/** What is absent unless it is switched on is read beside the core, each for itself. */
const limits = [
  {
    name: 'the webhook',
    holds: /^(src\/webhooks\/|(src\/commands|bin)\/webhook\.|sql\/0005)/,
    words: 3_500,
  },
  {
    name: 'second factors and signed identity',
    holds: /^(src\/(factors|signing|secrets)\/|(src\/commands|bin)\/secrets\.|sql\/000[67])/,
    words: 8_000,
  },
  { name: 'the page for admins', holds: /^src\/operation\/admin/, words: 8_300 },
  { name: 'passwords of other systems', holds: /^src\/foreign\//, words: 2_500 },
  {
    name: 'moving here and away',
    holds: /^(src\/moving\/|(src\/commands|bin)\/(import|export)\.)/,
    words: 4_850,
  },
  { name: 'the core', holds: /^/, words: 70_500 },
]

test('an auditor reads the core in an afternoon', () => {
  // A quoted string is one word; SQL in a template counts word by word.
  assert.equal(sizeOf(`const a = 'b c' // d\n`), 4)
  assert.equal(sizeOf('query(`select 1`) /* e */'), 7)
  const counted = under('src', 'bin', 'sql').filter(
    (path) => /\.(ts|js|sql|sh|html)$/.test(path) && !path.endsWith('.d.ts'),
  )
  const sizes = new Map(counted.map((path) => [path, sizeOf(read(path))]))
  const sum = (numbers: Iterable<number>) => [...numbers].reduce((total, each) => total + each, 0)
  const roomOf = (path: string) => limits.find(({ holds }) => holds.test(path))
  for (const room of limits) {
    const paths = counted.filter((path) => roomOf(path) === room)
    const size = sum(paths.map((path) => sizes.get(path)!))
    assert.ok(size > 0 && size < room.words, `${room.name}: ${size} words and operators`)
  }
  const large = [...sizes].filter(([, size]) => size > 2500)
  assert.deepEqual(large, [])

  const isCode = (line: string) => line.trim() !== '' && !/^\s*(\/\/|\/?\*)/.test(line)
  const lines = sum(sources.map((path) => read(path).split('\n').filter(isCode).length))
  const density = sum(sources.map((path) => sizes.get(path)!)) / lines
  assert.ok(density <= 10.4, `${density} words and operators on a line of code`)
})

test('four packages, one of them at run time', () => {
  const { dependencies, devDependencies, ...rest } = JSON.parse(read('package.json'))
  assert.deepEqual(Object.keys(dependencies), ['pg'])
  assert.deepEqual(Object.keys(devDependencies), ['@types/node', 'tsx', 'typescript'])
  const others = ['optionalDependencies', 'peerDependencies', 'bundledDependencies']
  assert.deepEqual(
    others.filter((name) => name in rest),
    [],
  )
  assert.doesNotMatch(read('package-lock.json'), /"resolved"|https?:\/\/registry/)
})

test('the top level holds what was agreed', () => {
  const names = [...new Set(files.map((path) => path.split('/')[0]!))].sort()
  assert.deepEqual(names, [
    '.ci',
    '.dockerignore',
    '.editorconfig',
    '.gitattributes',
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
  const words = ['sk' + 'ip', 'to' + 'do', 'on' + 'ly'].join('|')
  const pattern = new RegExp(
    String.raw`\b(t|test|it|describe|context)\.(${words})\b|\b(${words}): (?!\{)`,
  )
  assert.match(`test.${'sk' + 'ip'}('x')`, pattern)
  assert.match(`test('x', { ${'sk' + 'ip'}: true }, f)`, pattern)
  hold('no test is left out', typescript, (path, text) =>
    findLines(path, blank(text), (line) => pattern.test(line)),
  )
})

test('every link and every path that a README names exists', () => {
  const findDead = (path: string, text: string) => {
    const links = [...text.matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)/g)].map(([, link]) =>
      normalize(join(dirname(path), link!)),
    )
    const names = [...text.matchAll(/`((?:src|bin|sql|test)\/[\w./-]*\w)`/g)].map(
      ([, name]) => name!,
    )
    const named = names.filter((name) => !name.includes('NNNN'))
    const dead = [...links, ...named].filter((each) => !existsSync(join(top, each)))
    return dead.map((each) => `${path}: ${each}`)
  }
  assert.deepEqual(findDead('README.md', '[a](no/such.md), `src/nothing.ts`, `sql/NNNN_a.sql`'), [
    'README.md: no/such.md',
    'README.md: src/nothing.ts',
  ])
  hold('links', readmes, findDead)
})

test('README.md has at most 350 lines', () => {
  hold('length', ['README.md'], (path, text) => {
    const count = text.trimEnd().split('\n').length
    return count > 350 ? [`${path}: ${count} lines`] : []
  })
})

test('the text of each mutation is in its file exactly once', () => {
  const stale = mutations.filter(({ file, text }) => read(file).split(text).length !== 2)
  assert.deepEqual(
    stale.map(({ file, text }) => `${file}: ${text}`),
    [],
  )
})
