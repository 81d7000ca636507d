// How the image is made, pushed and deployed: what Dockerfile and workflow say, by their text.
import assert from 'node:assert/strict'
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

import { root } from './support/process.ts'

const read = (path: string) => readFileSync(join(root, path), 'utf8')
const dockerfile = read('Dockerfile')
const workflow = read('.github/workflows/ci.yml')

/** The text of each job, by its name; what comes before the jobs is under `''`. */
const jobs = splitJobs(workflow)

function splitJobs(text: string): Map<string, string> {
  const [head = '', body = ''] = text.split(/^jobs:\n/m)
  const parts = body.split(/^ {2}([\w-]+):\n/m).slice(1)
  const names = parts.filter((_, index) => index % 2 === 0)
  return new Map([['', head], ...names.map((name, i) => [name, parts[i * 2 + 1]!] as const)])
}

/** What a part of the workflow may do; undefined if it does not say. */
function permissionsOf(text: string): string[] | undefined {
  const block = /^( *)permissions:\n((?:\1 {2}.*\n)+)/m.exec(text)?.[2]
  return block
    ?.trim()
    .split('\n')
    .map((line) => line.replace(/#.*/, '').trim())
}

const stepsOf = (name: string) => jobs.get(name)!.replace(/^\s*#.*\n/gm, '')

test('the image is made of an exact version, without scripts of packages, and runs as 1000', () => {
  const images = [...dockerfile.matchAll(/^FROM (\S+)/gm)].map(([, image]) => image!)
  assert.equal(images.length, 2)
  for (const image of images) assert.match(image, /^node:\d+\.\d+\.\d+-bookworm-slim$/)
  const installing = [...dockerfile.matchAll(/\bnpm .*/g)].map(([line]) => line)
  assert.deepEqual(installing, ['npm ci --omit=dev --ignore-scripts --no-audit --no-fund'])
  const users = [...dockerfile.matchAll(/^USER (.*)$/gm)].map(([, user]) => user)
  assert.deepEqual(users, ['1000:1000'])
  // Nothing of the context is copied but by its name.
  const copied = [...dockerfile.matchAll(/^COPY (.*)$/gm)].map(([, what]) => what)
  assert.deepEqual(copied, [
    'package.json package-lock.json ./',
    '--from=packages /app/node_modules node_modules',
    'package.json ./',
    'sql sql',
    'bin bin',
    'src src',
  ])
})

test('packages are installed from the lock alone, and no script of theirs runs', () => {
  const installing = [...workflow.matchAll(/\bnpm (ci|i|install)\b.*/g)].map(([line]) => line)
  assert.ok(installing.length >= 2)
  assert.deepEqual([...new Set(installing)], ['npm ci --ignore-scripts'])
  assert.doesNotMatch(workflow, /\bnpx\b|\bnpm exec\b/)
})

test('every action is pinned by its commit, and leaves no token in the checkout', () => {
  for (const name of readdirSync(join(root, '.github/workflows'))) {
    const text = read(`.github/workflows/${name}`)
    const uses = [...text.matchAll(/^\s*-? *uses: (.*)$/gm)].map(([, action]) => action!)
    assert.ok(uses.length > 0)
    for (const action of uses) assert.match(action, /^[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*$/)
    const checkouts = text.split(/uses: actions\/checkout@/).slice(1)
    for (const each of checkouts)
      assert.match(each, /^.*\n\s+with:\n\s+persist-credentials: false\n/)
  }
})

test('a job has the rights that it needs and no others', () => {
  const granted = [...jobs].map(([name, text]) => [name, permissionsOf(text)])
  assert.deepEqual(Object.fromEntries(granted), {
    '': ['contents: read'],
    test: undefined,
    'try-image': undefined,
    image: undefined,
    push: ['packages: write'],
    deploy: ['contents: read', 'packages: read'],
  })
})

test('what pushes the image has no checkout and installs nothing', () => {
  const steps = stepsOf('push')
  assert.match(steps, /^ {4}needs: \[test, try-image, image\]$/m)
  const uses = [...steps.matchAll(/uses: ([\w/-]+)@/g)].map(([, action]) => action)
  assert.deepEqual(uses, ['actions/download-artifact'])
  assert.doesNotMatch(steps, /\b(npm|npx|node|apt-get|pip|curl|docker (build|run))\b/)
  assert.match(steps, /docker login .* --password-stdin <<<"\$TOKEN"/)
})

test('what is deployed is the digest of what was pushed, from main alone', () => {
  const digest = `docker image inspect --format '{{index .RepoDigests 0}}' "$image"`
  const pushing = stepsOf('push')
  assert.ok(pushing.includes(`digest=$(${digest})\n`))
  assert.ok(pushing.includes('echo "image=$digest" >>"$GITHUB_OUTPUT"\n'))
  assert.ok(pushing.includes('    outputs:\n      image: ${{ steps.push.outputs.image }}\n'))
  const deploying = stepsOf('deploy')
  assert.ok(deploying.includes('    needs: push\n'))
  assert.ok(deploying.includes(`    if: github.ref == 'refs/heads/main' && `))
  assert.ok(deploying.includes('          IMAGE: ${{ needs.push.outputs.image }}\n'))
  assert.ok(deploying.includes('          bin/deploy.sh "$IMAGE"\n'))
  assert.ok(deploying.includes('          umask 077\n'))
  const used = [...deploying.matchAll(/uses: ([\w/-]+)@/g)].map(([, action]) => action)
  assert.deepEqual(used, ['actions/checkout'])
  assert.doesNotMatch(deploying, /\b(npm|npx|node|apt-get|pip)\b/)
})

test('nothing that somebody else may name is written into a script', () => {
  // An expression in a script is replaced before the shell reads it.
  const scripts = workflow.split(/^\s*(?:- )?run: /m).slice(1)
  const lines = scripts.flatMap((each) => each.split(/^\s*(?:- |\w[\w-]*:)/m)[0]!.split('\n'))
  assert.ok(lines.length > 20)
  assert.deepEqual(
    lines.filter((line) => line.includes('${{')),
    [],
  )
})
