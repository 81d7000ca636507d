// The page for admins, as people use it: by pointer and keyboard.
import assert from 'node:assert/strict'

import type { Browser, Page } from './browser.ts'
import { password } from './helpers.ts'

/** The dialog in front. */
export const front = `[...document.querySelectorAll('dialog')].at(-1)`
export const isClosed = `document.querySelector('dialog') === null`
export const isLocked = `document.querySelector('.must') !== null`
/** How many rows the list has. */
export const rows = `document.querySelectorAll('tbody tr').length`
export const notice = `document.querySelector('output').textContent`

export const says = (page: Page, words: string) =>
  page.sees(`document.body.innerText.includes(${JSON.stringify(words)})`)

/** Clicks a button of the dialog in front. */
export const press = (page: Page, words: string) => page.click('dialog:last-of-type button', words)

export const enterKey = (page: Page) => page.press('Enter', { text: '\r' })

/** Opens the panel of a user, by a search and a click. */
export async function find(page: Page, email: string) {
  await page.type('[name=search]', email)
  await page.sees(`${rows} === 1 && document.querySelector('td a').textContent === '${email}'`)
  await page.click('td a')
  await page.sees(`document.querySelector('.panel li')`)
}

export async function closePanel(page: Page) {
  await page.click('.panel > header button')
  await page.sees(isClosed)
}

/** Logs in where the log-in lies over the view. */
export async function logInOver(page: Page, { email }: { email: string }) {
  await page.type('.must [name=email]', email)
  await page.type('.must [name=password]', password)
  await enterKey(page)
  await page.sees(`!(${isLocked})`)
}

export interface Visit {
  email?: string
  secret?: string
  width?: number
  /** What follows the address of the page. */
  hash?: string
  base?: string
}

/** Ways to come to the page: by default as `email`, to the service at `base`. */
export function visits(browser: Browser, by: { base: string; email: string }) {
  /** Opens the page without logging in. */
  async function open({ width = 1280, hash = '', base = by.base }: Visit = {}) {
    const page = await browser.open(`${base}/admin${hash}`, { width })
    await page.sees(front)
    return page
  }

  /** Types address and password, and sends them by Enter. */
  async function logIn(page: Page, { email = by.email, secret = password }: Visit = {}) {
    await page.type('dialog [name=email]', email)
    await page.type('dialog [name=password]', secret)
    await enterKey(page)
  }

  /** Opens the page, logged in. */
  async function enter(visit: Visit = {}) {
    const page = await open(visit)
    await logIn(page, visit)
    await page.sees(`${isClosed} && (${rows} > 0 || location.hash === '#live')`)
    return page
  }
  return { open, logIn, enter }
}

const quiet = { messages: [], violations: [] }

/** Fails if the page broke its policy, complained, asked elsewhere or kept a key. */
export async function checkQuiet(page: Page, ...keys: string[]) {
  assert.deepEqual({ messages: page.messages, violations: page.violations }, quiet)
  const { origin } = new URL(await page.evaluate<string>('location.href'))
  // The icon of an input is the browser's own.
  const elsewhere = page.requests.filter(
    ({ url }) => !/^data:image/.test(url) && !url.startsWith(`${origin}/`),
  )
  assert.deepEqual(elsewhere, [])
  const kept = await page.evaluate<string>(`(async () => JSON.stringify([
    localStorage.length, sessionStorage.length, document.cookie, history.state, name,
    await indexedDB.databases(), await caches.keys(),
    location.href, document.documentElement.outerHTML,
    [...document.querySelectorAll('input, textarea')].map((each) => each.value),
    Object.values(globalThis).filter((each) => typeof each === 'string'),
  ]))()`)
  const found: unknown[] = JSON.parse(kept)
  assert.deepEqual(found.slice(0, 7), [0, 0, '', null, '', [], []])
  for (const key of keys) {
    assert.ok(!kept.includes(key))
    assert.ok(!page.requests.some(({ url }) => url.includes(key)))
  }
}
