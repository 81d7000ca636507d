// The admin page: who is logged in, and which view is shown. The key is in the closure of
// createClient alone: not in storage, the address, the document or a global.

const base = new URL('.', location).href.slice(0, -1)
const idleMs = 15 * 60_000

/** A failure as the service tells it; a gateway's own answer has no more than its status. */
function failureOf({ status, statusText, headers }, text) {
  const body = text.startsWith('{') ? JSON.parse(text) : {}
  const { details = statusText, code, errors, requestId } = body
  const message = status < 500 ? details : `${details} (${status}, request ${requestId})`
  const needsFactor = /acr_values="2"/.test(headers.get('WWW-Authenticate'))
  const seconds = Number(headers.get('Retry-After')) || 0
  return Object.assign(new Error(message), { code, errors, needsFactor, seconds })
}

/** One request; it waits as long as a throttle demands, and throws any other failure. */
async function request(method, path, { key, body, version, ...options }) {
  const headers = {}
  if (key) headers['X-Api-Key'] = key
  if (version) headers['If-Match'] = `"${version}"`
  if (body) headers['Content-Type'] = 'application/json'
  const sent = { ...options, method, headers, body: JSON.stringify(body), cache: 'no-store' }
  for (;;) {
    const reply = await fetch(base + path, sent).catch((error) => {
      if (error.name !== 'AbortError') error.message = 'The service does not answer'
      throw error
    })
    const text = await reply.text()
    if (reply.ok) {
      const next = /<(.*)>; rel="next"/.exec(reply.headers.get('Link'))?.[1]
      return { text, next, details: text.startsWith('{') && JSON.parse(text).details }
    }
    const failure = failureOf(reply, text)
    if (reply.status !== 429 || failure.code === 'login_throttled') throw failure
    say(`Too many requests: waiting ${failure.seconds} s`)
    await sleep(failure.seconds || 1)
    say('')
  }
}

function createClient() {
  let key
  /** Who is logged in, or was until the log-in was laid over the view. */
  let me
  let usedAt = Date.now()
  /** Ends all requests when what was shown is forgotten. */
  let life = new AbortController()
  let entering

  /** Forgets the key, and ends the session if this page has started it. */
  async function drop() {
    const ended = key
    key = undefined
    if (!ended || !me.isSession) return
    await request('DELETE', '/users/sessions', { key: ended, keepalive: true }).catch(() => {})
  }

  /** Forgets all that was shown; the log-in stays. */
  function wipe() {
    life.abort()
    life = new AbortController()
    me = undefined
    for (const each of document.querySelectorAll('dialog:not(.must)')) each.close()
    clearView()
  }

  /** Takes a key over; throws, and forgets it, when it is no admin's. */
  async function enter(given, user) {
    const isSame = me?.id === user.id
    await drop()
    if (!isSame) wipe()
    key = given
    me = user
    addresses.set(me.id, me.email)
    usedAt = Date.now()
    try {
      if (isSame || /^#audit/.test(location.hash)) await call('GET', '/users?limit=1')
      if (!isSame) await showPage(me.email)
    } catch (error) {
      if (error.code !== 'forbidden') return tell(error)
      await drop()
      wipe()
      throw error
    }
  }

  function openLogIn(text, email) {
    const known = email && { value: email, readOnly: true }
    const code = textField('Code', 'code', 'Of your authenticator, or a recovery code', {
      autocomplete: 'one-time-code',
    })
    code.hidden = true
    const fields = [
      textField('Address', 'email', '', { autocomplete: 'username', ...known }),
      passwordField('Password', 'password', 'current-password'),
      code,
      el('details', [el('summary', 'An API key instead'), passwordField('Key', 'key', 'off')]),
    ]
    return new Promise((resolve, reject) => {
      const form = makeForm(fields, 'Log in', async ({ key: pasted, ...body }) => {
        if (pasted) {
          const { details } = await request('GET', '/users/me', { key: pasted })
          await enter(pasted, details)
        } else {
          const { details } = await request('POST', '/users/sessions', { body })
          code.hidden = !details.token
          if (details.token) return code.querySelector('input').focus()
          const { user: id, key: made, keyId } = details
          await enter(made, { id, keyId, email: body.email, isSession: true })
        }
        resolve()
        dialog.close()
      })
      const dialog = openDialog('Log in', [el('p', text), form], {
        className: email ? '' : 'must',
        oncancel: (event) => email || event.preventDefault(),
        onclose: () => reject(new Error('Not done')),
      })
    })
  }

  /** Asks who is there: once, for all that wait for it. `email`: it must be that user. */
  function logIn(text, email) {
    entering ??= openLogIn(text, email).finally(() => {
      entering = undefined
      if (!key) logIn('Log in to go on.').catch(tell)
    })
    return entering
  }

  /** Sets up a second factor of the caller, until its recovery codes are shown. */
  async function addFactor() {
    const { details } = await call('POST', '/users/me/factor')
    const { secret, uri: href } = details
    await new Promise((resolve, reject) => {
      const hint = 'That your authenticator shows'
      const fields = [textField('Code', 'code', hint, { autocomplete: 'one-time-code' })]
      const form = makeForm(fields, 'Confirm', async (body) => {
        const { details: shown } = await call('POST', '/users/me/factor/confirm', body)
        resolve()
        dialog.close()
        reveal('Second factor', { 'Recovery codes': shown.recoveryCodes.join('\n') })
      })
      const link = el('a', 'Open in an authenticator', { href })
      const text = 'Enter this secret into an authenticator:'
      const shown = [el('p', text), el('pre', secret), el('p', link), form]
      const onclose = () => reject(new Error('There is no second factor yet'))
      const dialog = openDialog('Second factor', shown, { onclose })
    })
  }

  /** Proves what a request lacked: a log-in of a short while ago, or a second factor. */
  async function renew(error) {
    const { details } = await request('GET', '/users/me', { key })
    if (error.needsFactor && !details.secondFactor) return addFactor()
    if (entering) throw error
    return logIn('Log in once more: this takes a fresh log-in, and is done then.', details.email)
  }

  /** A request with the key; where it lacks something, asks for that, and goes on. */
  async function callApi(method, path, body, version) {
    const { signal } = life
    for (;;) {
      const used = key
      try {
        return await request(method, path, { key, body, version, signal })
      } catch (error) {
        signal.throwIfAborted()
        const isKnown = /^key_(missing|invalid)|^authentication_needed/.test(error.code)
        if (!isKnown) throw error
        if (used !== key) continue
        if (error.code === 'authentication_needed') await renew(error)
        else {
          key = undefined
          await logIn('The key or session has ended. Log in to go on.')
        }
        signal.throwIfAborted()
      }
    }
  }

  function checkIdle() {
    if (!key || Date.now() - usedAt < idleMs) return
    drop()
    logIn('Nothing was done for fifteen minutes. Log in to go on.').catch(tell)
  }
  function use() {
    checkIdle()
    usedAt = Date.now()
  }
  for (const name of ['keydown', 'pointerdown']) addEventListener(name, use, true)
  setInterval(checkIdle, 5000)
  function leave() {
    const ending = drop()
    wipe()
    return ending
  }
  addEventListener('pagehide', leave)

  return {
    call: callApi,
    logIn,
    addFactor,
    me: () => me,
    isIn: () => key !== undefined,
    logOut() {
      leave()
      history.replaceState(null, '', location.pathname)
      logIn('You are logged out.').catch(tell)
    },
  }
}

const client = createClient()
const { call } = client

/** What the view does every five seconds while it is seen. */
let repeated
let isRepeating = false
setInterval(async () => {
  if (isRepeating || document.hidden || !client.isIn()) return
  isRepeating = true
  await repeated?.().catch(tell)
  isRepeating = false
}, 5000)

let shownView

function clearView() {
  repeated = shownView = undefined
  byId('bar').hidden = true
  byId('who').textContent = ''
  byId('view').replaceChildren()
  say('')
  forgetUsers()
  forgetReadings()
}

/** Shows the view that the address names; fails as its first request does. */
async function route() {
  const [, name = 'users', id] = /^#(users|audit|live)(?:\/([\w-]+))?$/.exec(location.hash) ?? []
  const [view, open] = views[name]
  for (const each of document.querySelectorAll('.panel')) each.close()
  for (const each of document.querySelectorAll('nav a')) {
    each.ariaCurrent = each.hash === '#' + name
  }
  if (shownView !== view || name === 'audit') {
    say('')
    repeated = undefined
    shownView = view
    byId('view').replaceChildren()
    await view(id)
  }
  if (!id) return
  open?.(id).catch((error) => {
    // With the address as it is, the same link would do nothing.
    if (location.hash) history.replaceState(null, '', '#' + name)
    tell(error)
  })
}

const views = { users: [showUsers, openUser], audit: [showAudit], live: [showLive] }

function showPage(email) {
  byId('bar').hidden = false
  byId('who').textContent = email
  return route()
}

byId('out').onclick = client.logOut
addEventListener('hashchange', ({ oldURL }) => {
  if (!client.me()) return
  if (mayLose(document)) route().catch(tell)
  else history.replaceState(null, '', oldURL)
})
addEventListener('pageshow', ({ persisted }) => persisted && location.reload())
addEventListener('beforeunload', (event) => {
  if (client.me() && document.querySelector('.dirty')) event.preventDefault()
})
client.logIn('As an admin of user-service.').catch(tell)
