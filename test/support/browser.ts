// Chromium without a window, driven over its DevTools protocol: messages that NUL ends, on two
// pipes. A page is used as people do, by pointer and keyboard, and tells what it did.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable, Writable } from 'node:stream'

import { until } from './process.ts'
import { undo } from './undo.ts'

type Params = Record<string, any>
type Listener = (method: string, params: Params) => void

/** The two ends of the pipe, and who waits for an answer or listens to a page. */
function createConnection(input: Writable, output: Readable) {
  const waiting = new Map<number, (message: Params) => void>()
  const listeners = new Map<string, Listener>()
  let lastId = 0
  let received = ''
  input.on('error', () => {})
  output.setEncoding('utf8').on('data', (text: string) => {
    const messages = (received + text).split('\0')
    received = messages.pop()!
    for (const each of messages) {
      const message = JSON.parse(each)
      if (message.id === undefined) {
        listeners.get(message.sessionId)?.(message.method, message.params)
        continue
      }
      waiting.get(message.id)!(message)
      waiting.delete(message.id)
    }
  })
  return {
    listeners,
    async send(method: string, params: Params = {}, sessionId?: string): Promise<Params> {
      lastId++
      const id = lastId
      const answered = new Promise<Params>((resolve) => waiting.set(id, resolve))
      input.write(`${JSON.stringify({ id, method, params, sessionId })}\0`)
      const { result, error } = await answered
      if (error) throw new Error(`${method}: ${error.message}`)
      return result
    },
  }
}
type Connection = ReturnType<typeof createConnection>

const flags = (profile: string) => [
  '--headless',
  '--remote-debugging-pipe',
  `--user-data-dir=${profile}`,
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-dev-shm-usage',
  '--disable-gpu',
  '--disable-sync',
  '--no-proxy-server',
  // No name leads anywhere: pages are on loopback.
  '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1',
  ...(process.getuid!() === 0 ? ['--no-sandbox'] : []),
]

export type Browser = Awaited<ReturnType<typeof startBrowser>>

/** Starts the browser with a profile of its own, which goes with it at the end of the file. */
export async function startBrowser() {
  const profile = mkdtempSync(join(tmpdir(), 'user-service-browser-'))
  const child = spawn('chromium', flags(profile), {
    env: { PATH: process.env['PATH'], HOME: profile },
    stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
  })
  const connection = createConnection(child.stdio[3] as Writable, child.stdio[4] as Readable)
  const ended = once(child, 'exit')
  undo.push(async () => {
    connection.send('Browser.close').catch(() => {})
    const late = setTimeout(() => child.kill('SIGKILL'), 5000)
    await ended
    clearTimeout(late)
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 })
  })
  const missing = once(child, 'error').then(([cause]) => {
    throw new Error('chromium could not be started; is it installed?', { cause })
  })
  await Promise.race([connection.send('Browser.getVersion'), missing])
  return {
    /** Opens an address in a window that shares nothing with others. */
    open: (url: string, options: PageOptions = {}) => openPage(connection, url, options),
  }
}

interface PageOptions {
  width?: number
  hasScripts?: boolean
}

export type Page = Awaited<ReturnType<typeof openPage>>

async function openPage(
  connection: Connection,
  url: string,
  { width = 1280, hasScripts = true }: PageOptions,
) {
  const { browserContextId } = await connection.send('Target.createBrowserContext')
  const place = { browserContextId, origin: new URL(url).origin }
  const permissions = ['clipboardReadWrite', 'clipboardSanitizedWrite']
  await connection.send('Browser.grantPermissions', { ...place, permissions })
  const blank = { browserContextId, url: 'about:blank' }
  const { targetId } = await connection.send('Target.createTarget', blank)
  const attaching = { targetId, flatten: true }
  const { sessionId } = await connection.send('Target.attachToTarget', attaching)
  const send = (method: string, params: Params = {}) => connection.send(method, params, sessionId)

  const page = Object.assign(listen(connection, { sessionId, send }), createInput(send), { send })
  for (const domain of ['Page', 'Runtime', 'Network', 'Log', 'Audits']) {
    await send(`${domain}.enable`)
  }
  const size = { width, height: 900, deviceScaleFactor: 1, mobile: false }
  await send('Emulation.setDeviceMetricsOverride', size)
  await send('Emulation.setFocusEmulationEnabled', { enabled: true })
  await send('Emulation.setScriptExecutionDisabled', { value: !hasScripts })
  await page.goTo(url)
  return page
}

/** What a page did, from now on, and what is answered when it asks. */
function listen({ listeners }: Connection, { sessionId, send }: { sessionId: string; send: Send }) {
  const seen = {
    /** What scripts wrote to the console, errors nobody caught, and the browser's complaints. */
    messages: [] as string[],
    requests: [] as { method: string; url: string }[],
    /** The directives of the Content-Security-Policy that something broke. */
    violations: [] as string[],
    /** The questions of `confirm` and their like. */
    questions: [] as string[],
    /** Whether they are answered with yes. */
    says: true,
  }
  listeners.set(sessionId, (method, params) => {
    if (method === 'Network.requestWillBeSent') {
      seen.requests.push({ method: params['request'].method, url: params['request'].url })
    }
    if (method === 'Runtime.consoleAPICalled') {
      const words = params['args'].map((each: Params) => each['value'] ?? each['description'])
      seen.messages.push(words.join(' '))
    }
    if (method === 'Runtime.exceptionThrown') {
      const { text, exception } = params['exceptionDetails']
      seen.messages.push(`${text} ${exception?.description ?? ''}`)
    }
    const entry = params['entry']
    // An answer of 400 and more is an entry of source `network`; advice is verbose.
    if (entry && entry.source !== 'network' && entry.level !== 'verbose') {
      seen.messages.push(entry.text)
    }
    const policy = params['issue']?.details.contentSecurityPolicyIssueDetails
    if (policy) seen.violations.push(policy.violatedDirective)
    if (method === 'Page.javascriptDialogOpening') {
      seen.questions.push(params['message'])
      void send('Page.handleJavaScriptDialog', { accept: seen.says })
    }
  })
  return seen
}

type Send = (method: string, params?: Params) => Promise<Params>

/** Pointer, keyboard and eyes. */
function createInput(send: Send) {
  /** The value of an expression in the page, awaited if it is a promise. */
  async function evaluate<T = any>(expression: string): Promise<T> {
    const how = { expression, awaitPromise: true, returnByValue: true }
    const { result, exceptionDetails } = await send('Runtime.evaluate', how)
    if (exceptionDetails) throw new Error(exceptionDetails.exception.description)
    return result.value
  }

  /** Waits until an expression is true in the page, or in the one that it is left for. */
  const sees = (expression: string) =>
    until(expression, () => evaluate<boolean>(`Boolean(${expression})`).catch(forgiveLeaving), 60)

  /** The middle of the one element of a selector that shows these words, once it can be clicked. */
  async function findMiddle(selector: string, words: string) {
    let found: number[] | string = ''
    const isFound = async () => {
      found = await evaluate<number[] | string>(`(() => {
        const found = [...document.querySelectorAll(${JSON.stringify(selector)})]
          .filter((each) => each.textContent.includes(${JSON.stringify(words)}))
        if (found.length !== 1) return 'there are ' + found.length
        found[0].scrollIntoView({ block: 'center', behavior: 'instant' })
        const box = found[0].getBoundingClientRect()
        const middle = [box.x + box.width / 2, box.y + box.height / 2]
        const top = document.elementFromPoint(...middle)
        return found[0].contains(top) ? middle : 'covered by ' + top?.outerHTML
      })()`)
      return Array.isArray(found)
    }
    await until(() => `one of ${selector} ${words}: ${String(found)}`, isFound)
    return found as unknown as number[]
  }

  /**
   * Clicks on the one element of a selector that shows these words: for the first time, or so soon
   * after it that it is the second click of two.
   */
  async function click(selector: string, words = '', clickCount = 1) {
    const [x, y] = await findMiddle(selector, words)
    await send('Input.dispatchMouseEvent', { type: 'mouseMoved', x, y })
    const button = { x, y, button: 'left', clickCount }
    await send('Input.dispatchMouseEvent', { ...button, type: 'mousePressed' })
    await send('Input.dispatchMouseEvent', { ...button, type: 'mouseReleased' })
  }

  async function press(key: string, more: Params = {}) {
    const code = key.length === 1 ? {} : { code: key, windowsVirtualKeyCode: codes[key] }
    await send('Input.dispatchKeyEvent', { type: 'keyDown', key, ...code, ...more })
    await send('Input.dispatchKeyEvent', { type: 'keyUp', key, ...code })
  }

  /** Types over whatever a field holds. */
  async function type(selector: string, text: string) {
    await click(selector)
    await press('a', { commands: ['selectAll'] })
    await press('Backspace')
    for (const each of text) {
      if (each === '\n') await press('Enter', { text: '\r' })
      else await press(each, { text: each })
    }
    const value = await evaluate<string>(
      `document.querySelector(${JSON.stringify(selector)}).value`,
    )
    assert.equal(value, text)
  }

  return {
    evaluate,
    sees,
    click,
    press,
    type,
    textOf: (selector: string) =>
      evaluate<string>(`document.querySelector(${JSON.stringify(selector)}).innerText`),
    async goTo(url: string) {
      const { errorText } = await send('Page.navigate', { url })
      assert.equal(errorText, undefined, url)
      await sees(`document.readyState === 'complete'`)
    },
  }
}

/** A page that is left while it is asked has no answer; the next one has. */
function forgiveLeaving(error: Error) {
  if (!/navigated or closed|context was destroyed|Cannot find context/.test(error.message)) {
    throw error
  }
  return false
}

/** What some layers of a browser know keys by. */
const codes: Record<string, number> = { Backspace: 8, Enter: 13, Tab: 9, Escape: 27 }
