// The views of users, and of one with keys and sessions.

/** The addresses of the users that were shown, by their ids. */
const addresses = new Map()

function userLink(id) {
  if (!id) return 'nobody'
  const text = addresses.get(id) ?? '…' + id.slice(-12)
  return el('a', text, { href: '#users/' + id, title: id })
}

/** What is not as usual of a user. */
const stateOf = ({ enabled, emailVerified, secondFactor }) =>
  [!enabled && 'disabled', !emailVerified && 'unverified', secondFactor && '2 factors']
    .filter(Boolean)
    .join(', ')

function cellsOfUser(user) {
  addresses.set(user.id, user.email)
  const { id, role, permissions, createdAt } = user
  return [userLink(id), role, stateOf(user), permissions.join(' '), when(createdAt)]
}

/** Reads the list of users once more. */
let refreshUsers

async function showUsers() {
  const search = textField('Search', 'search', 'The beginning of an address, or @ and its domain', {
    type: 'search',
  })
  const heads = ['Address', 'Role', 'State', 'Permissions', 'Created']
  const list = makeList(
    '/users',
    heads,
    'No such address. “New user” makes or invites one.',
    cellsOfUser,
  )
  const create = button('New user', askForUser, { className: 'primary' })
  let timer
  refreshUsers = () => {
    const query = new URLSearchParams({ view: 'full', limit: 50 })
    const sought = search.control.value.trim()
    if (sought) query.set('search', sought)
    return list.load('?' + query)
  }
  search.oninput = () => {
    clearTimeout(timer)
    timer = setTimeout(() => refreshUsers().catch(tell), 200)
  }
  byId('view').append(
    el('div', [el('h2', 'Users'), search, create], { className: 'tools' }),
    list.node,
  )
  await refreshUsers()
}

const userFields = () => [
  textField('Address', 'email'),
  choiceField('Role', 'role', 'user admin'),
  areaField('Permissions', 'permissions', 'Separated by spaces'),
  areaField('Metadata', 'metadata', 'A JSON object', '{}'),
  boxField('Verified', 'emailVerified'),
  boxField('Enabled', 'enabled', true),
]

async function askForUser() {
  const hint = 'Without one the user is invited, by a token that sets it'
  const password = passwordField('Password', 'password', 'new-password', hint)
  await ask('Make the user', {
    fields: [...userFields(), password],
    async work(body) {
      const { details } = await call('POST', '/users', { body })
      const secrets = { 'API key': details.apiKeys[0] }
      // The key is shown even where there is no token, but to nobody who has logged in meanwhile.
      const failed = (error) => {
        tell(error)
        if (error.name === 'AbortError') throw error
      }
      if (!body.password) Object.assign(secrets, await makeToken(details.id).catch(failed))
      return secrets
    },
  })
  await refreshUsers()
}

/** A token that sets a password, good for a week. */
async function makeToken(id) {
  const body = { purpose: 'password-reset', seconds: 604_800 }
  const { details } = await call('POST', '/users/' + id + '/tokens', { body })
  return { 'Token that sets a password, good for a week': details.token }
}

/** Reads a user once more. */
async function reread(shown) {
  const { details } = await call('GET', '/users/' + shown.id)
  Object.assign(shown, details).refresh?.()
  return shown
}

/** Changes the version that is shown; where that is stale, reads the user, and fails. */
async function change(shown, method, body) {
  const { id, version } = shown
  try {
    return await call(method, '/users/' + id, { body, version })
  } catch (error) {
    if (error.code === 'stale_version') await reread(shown)
    throw error
  }
}

async function patch(shown, body) {
  const { details } = await change(shown, 'PATCH', body)
  Object.assign(shown, details)
  say('Saved')
  // Not awaited: what is typed from now on stays.
  refreshUsers().catch(tell)
}

const differ = (one, other) => JSON.stringify(one) !== JSON.stringify(other)

/**
 * The form of a user. What somebody else changed meanwhile is taken over where nothing was typed,
 * and shown beside what was.
 */
function makeUserForm(shown) {
  const typedOf = (values) =>
    Object.fromEntries(
      Object.entries(values).filter(([name, value]) => differ(value, stored[name])),
    )
  async function save(values) {
    const typed = typedOf(values)
    try {
      await patch(shown, typed)
      stored = values
      shown.refresh()
      form.closest('dialog').querySelector('h2').textContent = shown.email
    } catch (error) {
      if (error.code !== 'stale_version') throw error
      error.message = 'Changed meanwhile. Save once more to store what you typed'
      error.errors = Object.keys(typed).map((name) => {
        return { field: name, message: 'Stored now: ' + JSON.stringify(shown[name]) }
      })
      throw error
    }
  }
  const form = makeForm(userFields(), 'Save', save)
  fill(form, shown)
  /** What the form held before anything was typed. */
  let stored = valuesOf(form)
  shown.refresh = () => {
    const typed = typedOf(valuesOf(form))
    fill(form, shown)
    stored = valuesOf(form)
    fill(form, { ...shown, ...typed })
  }
  return form
}

/** The panel of a user, as long as the address names it. */
async function openUser(given) {
  const opener = document.activeElement
  const shown = await reread({ id: given })
  if (location.hash !== '#users/' + given) return
  const { id, email, createdAt, updatedAt } = shown
  addresses.set(id, email)
  const path = '/users/' + id
  const keys = el('section')
  const showAll = () => showKeys(keys, id)
  const end = (title, text, below, after = showAll) =>
    button(title, async () => {
      await askToEnd(title, below, text)
      await after()
    })
  const endFactor = end('Remove the second factor', email, path + '/factor', async () => {
    endFactor.remove()
    await reread(shown)
    await showAll()
  })
  async function remove() {
    await ask('Delete ' + shown.email, {
      className: 'danger',
      text: 'Keys, sessions and tokens go, too. This cannot be undone.',
      fields: [textField('Type the address ' + shown.email, 'typed')],
      async work({ typed }) {
        if (typed !== shown.email) throw new Error('That is not the address')
        await change(shown, 'DELETE')
      },
    })
    dialog.close()
    await refreshUsers()
  }
  const dangers = [
    button('Make a token for a password', async () => reveal(shown.email, await makeToken(id))),
    end('End all tokens', 'Tokens that were sent to the user stop working.', path + '/tokens'),
    end('End all sessions', 'The user must log in again.', '/users/sessions/' + id),
    shown.secondFactor && endFactor,
    el('hr'),
    button('Delete the user', remove, { className: 'danger' }),
  ]
  const dialog = openDialog(
    email,
    [
      el('small', [id, ', made ', when(createdAt), ', changed ', when(updatedAt)]),
      el('p', el('a', 'What happened to this user', { href: '#audit/' + id })),
      makeUserForm(shown),
      id === client.me().id && ownSection(shown),
      keys,
      el('section', [el('h3', 'Access'), dangers]),
    ],
    {
      className: 'panel',
      onclose() {
        if (location.hash === '#users/' + given) setAddress('#users')
        // The list has been read since.
        if (!opener.isConnected) focusRow(id)
      },
    },
  )
  await showAll()
}

const codesOf = ({ details }) => ({ 'Recovery codes': details.recoveryCodes.join('\n') })

/** What admins do with their own account. */
function ownSection(shown) {
  const fields = [
    passwordField('Present password', 'currentPassword', 'current-password'),
    passwordField('New password', 'password', 'new-password'),
  ]
  const form = makeForm(fields, 'Change the password', async (values) => {
    await patch(shown, { ...values, password: values.password ?? '' })
    form.reset()
  })
  const renew = button('New recovery codes', async () =>
    reveal('Second factor', codesOf(await call('POST', '/users/me/factor/recovery-codes'))),
  )
  const setUp = client.me().isSession
    ? button('Set up a second factor', async () => {
        await client.addFactor()
        setUp.replaceWith(renew)
        await reread(shown)
      })
    : el('p', 'Who logs in by password can set up a second factor here.')
  return el('section', [el('h3', 'Your account'), shown.secondFactor ? renew : setUp, form])
}

/** Shows keys and sessions; the focus stays among them. */
async function showKeys(place, userId) {
  const path = '/users/' + userId + '/keys'
  const { details } = await call('GET', path)
  const act = (text, work, props) =>
    button(
      text,
      async () => {
        await work()
        await showKeys(place, userId)
      },
      props,
    )
  const hadFocus = place.contains(document.activeElement)
  const itemsOf = (wanted) =>
    details.filter(({ kind }) => kind === wanted).map((key) => keyItem(key, path, act))
  const title = el('h3', 'API keys', { tabIndex: -1 })
  place.replaceChildren(
    title,
    act('New key', () => askForKey(path)),
    el('p', !details[0] && 'None. Make a key for a program of this user.'),
    el('ul', itemsOf('api')),
    el('h3', 'Sessions'),
    el('ul', itemsOf('session')),
  )
  if (hadFocus) title.focus()
}

function keyItem(key, base, act) {
  const path = base + '/' + key.id
  const { kind, name, scope, enabled, permissions, address, agent } = key
  const isApi = kind === 'api'
  const title = isApi ? name : [address, agent].filter(Boolean).join(' ')
  const facts = [
    isApi && 'scope ' + scope + ', ',
    permissions && 'permissions ' + (permissions.join(' ') || 'none') + ', ',
    key.factors === 2 && '2 factors, ',
    !enabled && 'off, ',
    key.id === client.me().keyId && 'this page, ',
    'made ',
    when(key.createdAt),
    ', used ',
    when(key.lastUsedAt),
    ', ends ',
    when(key.validUntil),
  ]
  const rotate = () =>
    ask('Rotate ' + name, {
      fields: [
        textField('Overlap', 'overlapSeconds', 'Seconds for which both work', {
          type: 'number',
        }),
      ],
      work: async (body) => keyOf(await call('POST', path + '/rotate', { body })),
    })
  const named = (text, work, className = '') =>
    act(text, work, { ariaLabel: text + ' ' + title, className })
  const buttons = [
    isApi && named('Rotate', rotate),
    named(enabled ? 'Switch off' : 'Switch on', () =>
      call('PATCH', path, { body: { enabled: !enabled } }),
    ),
    named('End', () => askToEnd('End ' + title, path), 'danger'),
  ]
  return el('li', [el('b', title), el('small', facts), buttons])
}

const keyOf = ({ details }) => ({ [details.name]: details.key })

function askForKey(path) {
  return ask('Make the key', {
    fields: [
      textField('Name', 'name'),
      choiceField('Scope', 'scope', 'all read auth metrics'),
      areaField('Permissions', 'permissions', 'Separated by spaces; none: those of the user'),
      textField('End', 'validUntil', 'In your time zone', { type: 'datetime-local' }),
    ],
    async work({ permissions, ...values }) {
      const body = permissions.length > 0 ? { ...values, permissions } : values
      return keyOf(await call('POST', path, { body }))
    },
  })
}
