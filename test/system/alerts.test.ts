// What operators are woken for: the rules are right by Prometheus' own tool, each fires where it
// must and nowhere else, and the service has every metric of its own that they name.
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { startTestApp, undo } from '../support/helpers.ts'
import { root, succeed } from '../support/process.ts'
import { startReceiver } from '../support/receiver.ts'

const rules = join(root, 'bin/prometheus-alerts.yml')
const folder = mkdtempSync(join(tmpdir(), 'user-service-alerts-'))
undo.push(() => rmSync(folder, { recursive: true }))

type Series = Record<string, string>

const failure = (code: string) => `user_service_failures_total{code="${code}"}`
const duration = (le: string) => `http_request_duration_seconds_bucket{method="GET",le="${le}"}`
const late = (le: string) => `user_service_event_loop_delay_seconds_bucket{le="${le}"}`

/** Two hours of a service that is well, a value a minute. */
const well: Series = {
  up: '1x120',
  'http_requests_total{status="200"}': '0+600x120',
  [duration('0.5')]: '0+600x120',
  [duration('1')]: '0+600x120',
  [duration('+Inf')]: '0+600x120',
  [failure('overloaded')]: '0x120',
  [failure('database_unavailable')]: '0x120',
  [failure('invalid_credentials')]: '0+6x120',
  user_service_database_waiting: '0x120',
  [late('0.1')]: '0+3000x120',
  [late('0.25')]: '0+3000x120',
  [late('+Inf')]: '0+3000x120',
  process_open_fds: '50x120',
  process_max_fds: '1024x120',
  process_start_time_seconds: '5x120',
  user_service_backup_last_success_seconds: '0x120',
  webhook_outbox_oldest_seconds: '2x120',
  webhook_given_up: '0x120',
}

/** What is wrong, and who is woken by it. */
const wrong: [alert: string, series: Series][] = [
  ['UserServiceDown', { up: '0x120' }],
  ['UserServiceErrors', { 'http_requests_total{status="503"}': '0+60x120' }],
  ['UserServiceSlow', { [duration('0.5')]: '0+60x120' }],
  ['UserServiceQueueFull', { [failure('overloaded')]: '0+30x120' }],
  ['UserServiceDatabaseWaiting', { user_service_database_waiting: '3x120' }],
  ['UserServiceDatabaseGone', { [failure('database_unavailable')]: '0+30x120' }],
  ['UserServiceLoopLate', { [late('0.1')]: '0+300x120' }],
  ['UserServiceFilesShort', { process_open_fds: '900x120' }],
  ['UserServiceRestarts', { process_start_time_seconds: '5+60x120' }],
  ['UserServiceGuessing', { [failure('invalid_credentials')]: '0+600x120' }],
  ['UserServiceNoBackup', { user_service_backup_last_success_seconds: '_x120' }],
  // The clock of promtool starts at 0: this is 25 hours before.
  ['UserServiceNoBackup', { user_service_backup_last_success_seconds: '-90000x120' }],
  ['UserServiceWebhookBehind', { webhook_outbox_oldest_seconds: '2000x120' }],
  ['UserServiceWebhookGivenUp', { webhook_given_up: '2x120' }],
]

/** One of promtool's tests: these series make those alerts fire after two hours. */
function caseOf(series: Series, alerts: string[]) {
  const place = 'job="user-service",instance="a"'
  const labelled = Object.entries(series).map(([name, values]) => ({
    series: name.includes('{') ? name.replace('{', `{${place},`) : `${name}{${place}}`,
    values,
  }))
  const expected = alerts.map((alert) => ({ labels: `{alertname="${alert}"}`, value: 1 }))
  return {
    interval: '1m',
    input_series: labelled,
    promql_expr_test: [
      {
        expr: 'count by (alertname) (ALERTS{alertstate="firing"})',
        eval_time: '2h',
        exp_samples: expected,
      },
    ],
  }
}

test('each alert fires where it must, and nowhere else', async () => {
  await succeed('promtool', ['check', 'rules', rules])
  const tests = [
    caseOf(well, []),
    ...wrong.map(([alert, series]) => caseOf({ ...well, ...series }, [alert])),
  ]
  // JSON is YAML.
  const file = join(folder, 'alerts.yml')
  writeFileSync(file, JSON.stringify({ rule_files: [rules], evaluation_interval: '1m', tests }))
  await succeed('promtool', ['test', 'rules', file])

  const alerts = [...readFileSync(rules, 'utf8').matchAll(/alert: (\w+)/g)].map(([, name]) => name)
  assert.deepEqual(
    alerts.filter((alert) => !wrong.some(([name]) => name === alert)),
    [],
  )
})

test('the service has the metrics that alerts name, in a form that promtool likes', async () => {
  const receiver = await startReceiver()
  const app = await startTestApp(receiver.env)
  const { key } = await app.admin()
  await app.request('GET', '/livez')
  const { text } = await app.request('GET', '/metrics', { key })
  const file = join(folder, 'metrics')
  writeFileSync(file, text)
  await succeed('sh', ['-c', 'exec promtool check metrics <"$0"', file])

  const named = readFileSync(rules, 'utf8').match(
    /\b(user_service|http|process|webhook)_\w+(?=\{)/g,
  )!
  assert.deepEqual(
    named.filter((name) => !text.includes(`\n${name}{`) && !text.includes(`\n${name} `)),
    [],
  )
})
