// The view of the audit: who did what to whom, newest first.

function cellsOfEvent({ at, action, changes, actor, subject, address, requestId }) {
  const what = el('span', [action, ' ', el('small', changes.join(', '))])
  const from = el('span', address ?? '', { title: requestId ?? '' })
  return [when(at), what, userLink(actor), userLink(subject), from]
}

async function findId(sought) {
  if (!sought.includes('@')) return sought
  const { details } = await call('GET', '/users?' + new URLSearchParams({ email: sought }))
  if (details.length === 0) throw new Error('Nobody has this address')
  return details[0]
}

async function showAudit(id = '') {
  const user = textField('User', 'user', 'An address or id', { value: id })
  const action = textField('Action', 'action', 'Such as user.changed')
  const follow = boxField('Follow', 'follow')
  const heads = ['When', 'What', 'Who', 'Whom', 'From']
  const list = makeList(heads, 'Nothing of that kind has happened.', cellsOfEvent)
  const form = el('form', [user, action, follow, el('button', 'Show')], { className: 'tools' })
  async function refresh() {
    const values = valuesOf(form)
    const query = new URLSearchParams({ limit: 50 })
    if (values.action) query.set('action', values.action)
    if (values.user) query.set('user', await findId(values.user.trim()))
    await list.load('/audit', '?' + query)
  }
  form.onsubmit = (event) => {
    event.preventDefault()
    say('')
    refresh().catch(tell)
  }
  form.prepend(el('h2', 'Audit'))
  byId('view').append(form, list.node)
  await refresh()
  repeated = async () => follow.querySelector('input').checked && refresh()
}
