// The view of the audit: who did what to whom, newest first.

function cellsOfEvent({ at, action, changes, actor, subject, address, requestId }) {
  const what = el('span', [action, ' ', el('small', changes.join(', '))])
  const from = el('span', address, { title: requestId ?? '' })
  return [when(at), what, userLink(actor), userLink(subject), from]
}

async function findId(sought) {
  if (/^([\da-f-]{36})?$/i.test(sought)) return sought
  const { details } = await call('GET', '/users?' + new URLSearchParams({ email: sought }))
  if (!details[0]) throw new Error('Nobody has this address')
  return details[0]
}

async function showAudit(id = '', kind = '') {
  const heads = ['When', 'What', 'Who', 'Whom', 'From']
  const list = makeList('/audit', heads, 'Nothing of that kind has happened.', cellsOfEvent)
  const follow = boxField('Follow', 'follow')
  const fields = [
    textField('User', 'user', 'An address or id', { value: addresses.get(id) ?? id }),
    textField('Action', 'action', 'Such as user.changed', { value: kind }),
    follow,
  ]
  function show(user, action) {
    const sought = { limit: 50, ...(user && { user }), ...(action && { action }) }
    return list.load('?' + new URLSearchParams(sought))
  }
  const form = makeForm(fields, 'Show', async ({ user, action }) => {
    const found = await findId(user.trim())
    await show(found, action)
    // So that the way back leads to the same events.
    if (form.isConnected) setAddress('#audit/' + found + '/' + action)
  })
  byId('view').append(el('div', [el('h2', 'Audit'), form], { className: 'tools' }), list.node)
  repeated = async () => follow.control.checked && list.follow()
  await show(id, kind)
}
