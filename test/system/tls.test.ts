// Needs testssl.sh and sslscan.
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { createCertificate } from '../support/certificate.ts'
import { startTestApp, undo } from '../support/helpers.ts'
import { run, succeed } from '../support/process.ts'

const folder = mkdtempSync(join(tmpdir(), 'tls-scan-'))
undo.push(() => rmSync(folder, { recursive: true }))
const files = { TLS_CERT_FILE: join(folder, 'cert.pem'), TLS_KEY_FILE: join(folder, 'key.pem') }
const { cert, key } = createCertificate()
writeFileSync(files.TLS_CERT_FILE, cert)
writeFileSync(files.TLS_KEY_FILE, key)
const app = await startTestApp(files)
const { port } = new URL(app.url)

test('sslscan finds only TLS 1.2 and 1.3, authenticated ciphers and forward secrecy', async () => {
  const xml = await succeed('sslscan', ['--xml=-', `127.0.0.1:${port}`])
  const read = (text: string): Record<string, string> =>
    Object.fromEntries(
      [...text.matchAll(/(\w+)="([^"]*)"/g)].map(([, name, value]) => [name, value]),
    )
  const attributes = (element: string) =>
    [...xml.matchAll(new RegExp(`<${element} ([^>]*)/>`, 'g'))].map(([, text]) => read(text!))

  const enabled = attributes('protocol').filter((protocol) => protocol['enabled'] === '1')
  assert.deepEqual(
    enabled.map((protocol) => protocol['version']),
    ['1.2', '1.3'],
  )
  assert.deepEqual(attributes('renegotiation'), [{ supported: '0', secure: '0' }])
  assert.deepEqual(
    attributes('cipher').map((cipher) => `${cipher['sslversion']} ${cipher['cipher']}`),
    [
      'TLSv1.3 TLS_AES_128_GCM_SHA256',
      'TLSv1.3 TLS_AES_256_GCM_SHA384',
      'TLSv1.3 TLS_CHACHA20_POLY1305_SHA256',
      'TLSv1.2 ECDHE-ECDSA-AES128-GCM-SHA256',
      'TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384',
      'TLSv1.2 ECDHE-ECDSA-CHACHA20-POLY1305',
    ],
  )
})

// Protocols, ciphers, their order, headers and attacks on them. Not the certificate: it is not
// ours.
const checks = ['-p', '-s', '-f', '-P', '-h', '-H', '-T', '-R', '-C', '-B', '-L']

test('testssl.sh finds nothing above LOW', async () => {
  const report = join(folder, 'report.json')
  const { stdout, stderr } = await run('testssl', [
    ...checks,
    '--warnings',
    'batch',
    '--color',
    '0',
    '--quiet',
    '--nodns',
    'none',
    '--ip',
    '127.0.0.1',
    '--add-ca',
    files.TLS_CERT_FILE,
    '--jsonfile',
    report,
    `https://localhost:${port}/v1/livez`,
  ])
  assert.ok(existsSync(report), stdout + stderr)
  const findings = JSON.parse(readFileSync(report, 'utf8')) as {
    id: string
    severity: string
    finding: string
  }[]

  const above = findings.filter(({ severity }) =>
    ['MEDIUM', 'HIGH', 'CRITICAL', 'FATAL'].includes(severity),
  )
  assert.deepEqual(above, [])
  const good = findings.filter(({ severity }) => severity === 'OK').map(({ id }) => id)
  const wanted = ['TLS1_2', 'TLS1_3', 'HSTS_time', 'heartbleed', 'LUCKY13', 'secure_renego']
  assert.deepEqual(
    wanted.filter((id) => !good.includes(id)),
    [],
    stdout,
  )
})
