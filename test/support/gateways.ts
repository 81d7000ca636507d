// Real gateways with the configurations of bin/gateways, but for the addresses, and the backend
// behind them.
import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

import { freePort, root } from './process.ts'
import { undo } from './undo.ts'

export interface Ask {
  method?: string
  path?: string
  /** Pairs, sent as they are. */
  headers?: [string, string][]
  body?: Buffer
  chunked?: boolean
  trailers?: [string, string][]
  limitMs?: number
  /** The client's address. */
  from?: string
}

/** What came back; of an answer of the backend also what had reached it. */
export interface Answer {
  status: number
  challenge: string | undefined
  reached: Seen | undefined
}

/** A request as it reached the backend. */
export interface Seen {
  method: string
  url: string
  headers: [string, string][]
  trailers: [string, string][]
  body: string
}

const pairs = (raw: string[]) =>
  raw.flatMap((name, i) => (i % 2 === 0 ? [[name, raw[i + 1]!] as [string, string]] : []))

/** What stands for a body in what the backend has seen. */
export const digest = (body: Buffer) =>
  `${body.length} bytes ${createHash('sha256').update(body).digest('hex')}`

async function readAll(stream: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

/** Sends one request over a connection of its own. */
export async function ask(port: number, sent: Ask): Promise<Answer> {
  const { method = 'GET', path = '/', headers = [], body, chunked, trailers } = sent
  const limitMs = sent.limitMs ?? 10_000
  const length = chunked
    ? ['Transfer-Encoding', 'chunked']
    : ['Content-Length', String(body?.length)]
  const framing = body === undefined ? [] : length
  const request = http.request({
    host: '127.0.0.1',
    port,
    method,
    path,
    agent: false,
    timeout: limitMs,
    ...(sent.from !== undefined && { localAddress: sent.from }),
    headers: ['Host', 'backend.example.org', ...framing, ...headers.flat()],
  })
  request.on('timeout', () => request.destroy(new Error(`no answer in ${limitMs} ms`)))
  if (trailers) request.addTrailers(trailers)
  request.end(body)
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  const text = await readAll(response)
  return {
    status: response.statusCode!,
    challenge: response.headers['www-authenticate'],
    reached: response.headers['x-backend'] ? (JSON.parse(text.toString()) as Seen) : undefined,
  }
}

/** Sends bytes as they are; everything that came back until the end, or for 2 s. */
export async function sendRaw(port: number, bytes: string): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  let text = ''
  socket.setEncoding('latin1').on('data', (chunk: string) => {
    text += chunk
  })
  socket.on('error', () => {}) // a reset ends it, too
  socket.write(bytes, 'latin1')
  const late = setTimeout(() => socket.destroy(), 2000)
  await once(socket, 'close')
  clearTimeout(late)
  return text
}

/** In what the backend sends through a tunnel. */
export const echoMark = 'echo of the backend: '

/**
 * Tells what reached it. It turns a connection into a tunnel whenever it is asked to, and at
 * /unasked without; /late begins its answer after 33 s, /long pauses for 35 s within it.
 */
export async function startBackend() {
  const received: { text: string }[] = []
  let urls: string[] = []

  function echo(socket: Socket) {
    socket.on('error', () => {})
    socket.on('data', (chunk: Buffer) => socket.write(`${echoMark}${chunk.toString('latin1')}`))
  }
  const switching =
    'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n'

  async function answer(req: IncomingMessage, res: ServerResponse) {
    urls.push(req.url!)
    if (req.url === '/unasked') {
      res.writeHead(101, { Connection: 'Upgrade', Upgrade: 'h2c' }).end()
      return
    }
    const body = digest(await readAll(req))
    const seen: Seen = {
      method: req.method!,
      url: req.url!,
      headers: pairs(req.rawHeaders),
      trailers: pairs(req.rawTrailers),
      body,
    }
    if (req.url === '/late') await sleep(33_000)
    res.setHeader('X-Backend', 'yes')
    if (req.url === '/long') {
      res.write('  ')
      await sleep(35_000)
    }
    res.end(JSON.stringify(seen))
  }

  const server = http.createServer({ maxHeaderSize: 65_536 }, answer)
  server.on('connection', (socket) => {
    const connection = { text: '' }
    received.push(connection)
    socket.on('data', (chunk: Buffer) => {
      connection.text += chunk.toString('latin1')
    })
  })
  server.on('connect', (_req, socket: Socket) => {
    socket.write('HTTP/1.1 200 OK\r\n\r\n')
    echo(socket)
  })
  server.on('upgrade', (_req, socket: Socket) => {
    socket.write(switching)
    echo(socket)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  undo.push(() => server.close().closeAllConnections())
  return {
    port: (server.address() as AddressInfo).port,
    /** What came over each connection since this was called last. */
    takeReceived() {
      const texts = received.map(({ text }) => text)
      for (const connection of received) connection.text = ''
      return texts
    },
    /** Which requests came since this was called last. */
    takeUrls() {
      const taken = urls
      urls = []
      return taken
    },
  }
}

/** Starts a program and waits until its port answers; fails if it is not installed. */
export async function startOnPort(
  port: number,
  [file, ...args]: [string, ...string[]],
  env: NodeJS.ProcessEnv = {},
): Promise<ChildProcess> {
  const child = spawn(file, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString()
    })
  }
  const ended = once(child, 'exit').catch(() =>
    assert.fail(`These tests need ${file}, which could not be started`),
  )
  undo.push(async () => {
    const late = setTimeout(() => child.kill('SIGKILL'), 5000)
    child.kill('SIGCONT')
    child.kill('SIGTERM')
    await ended.catch(() => {})
    clearTimeout(late)
  })
  const answers = async () => {
    try {
      await ask(port, { path: '/' })
      return true
    } catch {
      return sleep(50, false)
    }
  }
  for (const deadline = Date.now() + 30_000; ;) {
    const up = await Promise.race([ended, answers()])
    if (up === true) return child
    assert.ok(up === false && Date.now() < deadline, `${file} did not start: ${output}`)
  }
}

export interface Ports {
  /** Of the gateway. */
  gateway: number
  service: number
  backend: number
}

type Edit = (text: string) => string

/** What one gateway is started with. */
interface Settings extends Ports {
  /** Makes the edits that a README describes. */
  edit?: Edit
}

/** A folder for one gateway, which nginx's workers may enter. */
function openFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'gateways-'))
  chmodSync(folder, 0o755)
  undo.push(() => rmSync(folder, { recursive: true }))
  return folder
}

/** Copies a configuration, with other addresses; returns where it lies. */
function place(path: string, { edit, ...ports }: Settings, change: Edit = (text) => text): string {
  const text = readFileSync(join(root, 'bin/gateways', basename(path)), 'utf8')
    .replaceAll('127.0.0.1:60001', `127.0.0.1:${ports.service}`)
    .replaceAll('127.0.0.1:3000', `127.0.0.1:${ports.backend}`)
    .replaceAll(':8080', `:${ports.gateway}`)
    .replace('port_value: 60001', `port_value: ${ports.service}`)
    .replace('port_value: 3000', `port_value: ${ports.backend}`)
    .replace('port_value: 8080', `port_value: ${ports.gateway}`)
  writeFileSync(path, change(edit ? edit(text) : text))
  return path
}

/** Starts each gateway; nginx, caddy, haproxy, traefik and envoy must be in PATH. */
export const gateways: Record<string, (settings: Settings) => Promise<unknown>> = {
  nginx(settings) {
    const folder = openFolder()
    const included = place(join(folder, 'nginx.conf'), settings)
    const path = join(folder, 'main.conf')
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
      (each) => `${each}_temp_path ${folder}/${each};`,
    )
    writeFileSync(
      path,
      `daemon off; pid ${folder}/nginx.pid; error_log ${folder}/error.log; worker_processes 1;
      events { worker_connections 2048; }
      http { access_log off; ${temporary.join(' ')}
        include ${included}; }`,
    )
    const log = join(folder, 'error.log')
    return startOnPort(settings.gateway, ['nginx', '-p', folder, '-c', path, '-e', log])
  },

  caddy(settings) {
    const folder = openFolder()
    const path = place(join(folder, 'Caddyfile'), settings, (text) => `{\n\tadmin off\n}\n${text}`)
    const command = ['caddy', 'run', '--adapter', 'caddyfile', '--config', path]
    return startOnPort(settings.gateway, command as [string], {
      HOME: folder,
      XDG_DATA_HOME: folder,
      XDG_CONFIG_HOME: folder,
    })
  },

  haproxy(settings) {
    const folder = openFolder()
    const socket = `abns@${randomBytes(6).toString('hex')}`
    const own = (text: string) => text.replaceAll('abns@user-service', socket)
    place(join(folder, 'forward-auth.lua'), settings, own)
    const path = place(join(folder, 'haproxy.cfg'), settings, own)
    return startOnPort(settings.gateway, ['haproxy', '-db', '-f', path])
  },

  async traefik(settings) {
    const folder = openFolder()
    const between = await freePort()
    const own = (text: string) =>
      text
        .replaceAll('127.0.0.1:60002', `127.0.0.1:${between}`)
        .replace('filename: traefik.yml', `filename: ${folder}/traefik.yml`)
    place(join(folder, 'traefik.yml'), settings, own)
    const path = place(join(folder, 'traefik-static.yml'), settings, own)
    return startOnPort(settings.gateway, ['traefik', `--configFile=${path}`])
  },

  envoy(settings) {
    const path = place(join(openFolder(), 'envoy.yaml'), settings)
    const options = ['--concurrency', '1', '--disable-hot-restart', '--log-level', 'warn']
    return startOnPort(settings.gateway, ['envoy', '-c', path, ...options])
  },
}
