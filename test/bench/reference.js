// What the service is held against, each in a process of its own and without a loader:
// `bare`: node:http and a constant; `lookup`: node:http and one prepared statement through a pool
// of ten; `scrypt`: as many hashes of the service's cost as the cores can make.
import { createHash, scrypt } from 'node:crypto'
import { createServer } from 'node:http'
import { availableParallelism } from 'node:os'

const [mode, argument] = process.argv.slice(2)

if (mode === 'scrypt') {
  let hashes = 0
  const cost = { N: 2 ** 14, r: 8, p: 5, maxmem: 2 ** 28 }
  const next = () =>
    scrypt('password', 'sixteen bytes ok', 32, cost, () => {
      hashes++
      next()
    })
  for (let i = 0; i < availableParallelism(); i++) next()
  setTimeout(() => {
    console.log(hashes)
    process.exit()
  }, Number(argument))
} else if (mode === 'lookup') {
  const { default: pg } = await import('pg')
  const pool = new pg.Pool({
    host: process.env.DATABASE_HOST,
    port: process.env.DATABASE_PORT,
    database: process.env.DATABASE_NAME,
    user: 'user_service_manager',
    max: 10,
  })
  const text = 'select id, user_id, enabled, valid_until from api_keys where digest = $1'
  serve(async (req, res) => {
    const digest = createHash('sha256')
      .update(req.headers['x-api-key'] ?? '')
      .digest()
    const { rows } = await pool.query({ name: 'lookup', text, values: [digest] })
    answer(res, rows.length === 1 ? 200 : 404, rows[0])
  })
} else {
  serve((req, res) => answer(res, 200, { hello: 'world' }))
}

function serve(handle) {
  createServer(handle).listen(Number(argument), '127.0.0.1')
}

function answer(res, status, body) {
  const text = JSON.stringify(body ?? null)
  res.writeHead(status, {
    'Content-Type': 'application/json',
    'Content-Length': Buffer.byteLength(text),
  })
  res.end(text)
}
