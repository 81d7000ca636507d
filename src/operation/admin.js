// The admin page: who is logged in, and which view is shown. The key is in the closure of
// createClient alone: not in storage, the address, the document or a global.

/** A failure as the service tells it; a gateway's own answer has no more than its status. */
function failureOf({ status, statusText, headers }, { requestId, details, code, errors }) {
  const told = status < 500 ? details : `${details} (${status}, request ${requestId})`
  const message = requestId ? told : `A gateway answered, not the service: ${status} ${statusText}`
  const needsFactor = /acr_values="2"/.test(headers.get('WWW-Authenticate'))
  const seconds = Number(headers.get('Retry-After')) || 0
  return Object.assign(new Error(message), { code, errors, needsFactor, seconds })
}

function failSilent(error) {
  if (error.name !== 'AbortError') error.message = 'The service does not answer'
  throw error
}

/** One request; it waits as long as a throttle demands, and throws any other failure. */
async function request(method, path, { key, body, version, ...options }) {
  // It throws for text that no header can hold, which in fetch would pass for a lost connection.
  const headers = new Headers()
  if (key) headers.set('X-Api-Key', key)
  if (version) headers.set('If-Match', `"${version}"`)
  if (body) headers.set('Content-Type', 'application/json')
  const sent = { ...options, method, headers, body: JSON.stringify(body), cache: 'no-store' }
  for (;;) {
    const reply = await fetch('.' + path, sent).catch(failSilent)
    const text = await reply.text().catch(failSilent)
    const answer = parse(text) ?? {}
    // Metrics begin with #; a 204 has no body.
    if (reply.ok && (answer.requestId || /^(#|$)/.test(text))) {
      const next = /<(.*)>; rel="next"/.exec(reply.headers.get('Link'))?.[1]
      return { text, next, details: answer.details }
    }
    const failure = failureOf(reply, answer)
    if (reply.status !== 429 || failure.code === 'login_throttled') throw failure
    say(`Too many requests: waiting ${failure.seconds} s`)
    await sleep(failure.seconds || 1, sent.signal).finally(() => say(''))
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
    await request('DELETE', '/users/sessions', { key: ended, keepalive: true }).catch(
      ({ code }) =>
        code === 'key_invalid' || say('The session could not be ended: it lasts until it expires.'),
    )
  }

  /** Forgets the key and all that was shown; the log-in stays. */
  function wipe() {
    drop()
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
      if (isSame) return
      byId('bar').hidden = false
      byId('who').textContent = me.email
      await route()
    } catch (error) {
      if (!key) throw error
      tell(error)
    }
  }

  function openLogIn(text, email = '') {
    const code = textField('Code', 'code', 'From your authenticator, or a recovery code', {
      autocomplete: 'one-time-code',
    })
    code.hidden = true
    return ask('Log in', {
      text,
      className: email ? 'fresh' : 'must',
      closedBy: email ? 'closerequest' : 'none',
      fields: [
        textField('Address', 'email', '', {
          autocomplete: 'username',
          value: email,
          readOnly: Boolean(email),
        }),
        passwordField('Password', 'password', 'current-password'),
        code,
        el('details', [el('summary', 'An API key instead'), passwordField('Key', 'key', 'off')]),
      ],
      async work({ key: pasted, ...body }) {
        if (pasted) {
          const { details } = await request('GET', '/users/me', { key: pasted })
          return enter(pasted, details)
        }
        const { details } = await request('POST', '/users/sessions', { body })
        if (details.token) {
          code.hidden = false
          code.control.focus()
          return false
        }
        const { user: id, keyId } = details
        await enter(details.key, { id, keyId, email: body.email, isSession: true })
      },
    })
  }

  /** Opens the log-in, one for all that wait; with `email`, one of that user, who may close it. */
  function logIn(text, email) {
    if (!email) document.querySelector('.fresh')?.close()
    entering ??= openLogIn(text, email).finally(() => {
      entering = undefined
      if (!key) lock('Log in to continue.')
    })
    return entering
  }

  const lock = (text) => logIn(text).catch(tell)

  /** Sets up a second factor of the caller. */
  async function addFactor() {
    const { details } = await call('POST', '/users/me/factor')
    await ask('Set up a second factor', {
      text: [
        'Enter this secret into an authenticator:',
        el('pre', details.secret),
        el('a', 'Open in an authenticator', { href: details.uri }),
      ],
      fields: [
        textField('Code', 'code', 'Shown by the authenticator', { autocomplete: 'one-time-code' }),
      ],
      work: async (body) => codesOf(await call('POST', '/users/me/factor/confirm', { body })),
    })
  }

  /** Proves what a request lacked: a log-in of a short while ago, or a second factor. */
  async function renew(error) {
    const { details } = await request('GET', '/users/me', { key })
    // An API key sets up none.
    if (error.needsFactor && !details.secondFactor && me?.isSession) return addFactor()
    if (entering) throw error
    return logIn(
      'Log in once more: this needs a fresh log-in, and continues after it.',
      details.email,
    )
  }

  /** A request with the key; where it lacks something, asks for that, and goes on. */
  async function call(method, path, { signal: given = life.signal, ...options } = {}) {
    const signal = AbortSignal.any([life.signal, given])
    for (;;) {
      const used = key
      try {
        return await request(method, path, { ...options, key, signal })
      } catch (error) {
        signal.throwIfAborted()
        if (error.code === 'forbidden') {
          // Nothing is left for somebody who is no admin any more.
          if (path.startsWith('/users?')) leave('You are no admin.')
          else await call('GET', '/users?limit=1')
        }
        const isKnown = /^key_(missing|invalid)|^authentication_needed/.test(error.code)
        if (!isKnown) throw error
        if (used !== key) continue
        if (error.code === 'authentication_needed') await renew(error)
        else {
          key = undefined
          await logIn('The key or session has ended. Log in to continue.')
        }
        signal.throwIfAborted()
      }
    }
  }

  function checkIdle() {
    if (!key || Date.now() - usedAt < 15 * 60_000) return
    drop()
    lock('You were inactive for fifteen minutes. Log in to continue.')
  }
  function use() {
    checkIdle()
    usedAt = Date.now()
  }
  for (const name of ['keydown', 'pointerdown']) addEventListener(name, use, true)
  setInterval(checkIdle, 5000)
  addEventListener('pagehide', wipe)

  function leave(text) {
    wipe()
    lock(text)
  }
  byId('out').onclick = () => {
    leave('You are logged out.')
    setAddress(location.pathname)
  }

  return { call, lock, addFactor, me: () => me }
}

const client = createClient()
const { call } = client

const setAddress = (address) => history.replaceState(null, '', address)

/** What the view does every five seconds while it is seen. */
let repeated
async function repeat() {
  for (;;) {
    await sleep(5)
    const isSeen = !document.hidden && !document.querySelector('.must')
    if (isSeen) await repeated?.().catch(tell)
  }
}

let shownView

function clearView() {
  repeated = shownView = undefined
  byId('bar').hidden = true
  byId('who').textContent = ''
  byId('view').replaceChildren()
  say('')
  addresses.clear()
  forgetReadings()
}

/** Shows the view that the address names; fails as its first request does. */
async function route() {
  const [, name = 'users', id, more] =
    /^#(users|audit|live)(?:\/([\w-]*))?(?:\/([\w.]*))?$/.exec(location.hash) ?? []
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
    await view(id, more)
  }
  if (!id) return
  open?.(id).catch((error) => {
    // With the address as it is, the same link would do nothing.
    if (location.hash) setAddress('#' + name)
    tell(error)
  })
}

const views = { users: [showUsers, openUser], audit: [showAudit], live: [showLive] }

addEventListener('hashchange', ({ oldURL }) => {
  if (!client.me()) return
  if (mayLose(document)) route().catch(tell)
  else setAddress(oldURL)
})
addEventListener('pageshow', ({ persisted }) => persisted && location.reload())
addEventListener('beforeunload', (event) => {
  if (client.me() && document.querySelector('dialog .dirty')) event.preventDefault()
})
client.lock('As an admin of user-service.')
repeat()
