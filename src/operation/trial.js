// The part of the page that calls an operation, by fetch or by a curl line to copy.

/** The form that calls an operation, the curl line for the same, and the answer. */
function trial(operation) {
  const { parameters, method, path } = operation
  const example = operation.requestBody?.content['application/json'].example
  const line = el('pre', { className: 'curl' })
  const result = el('div', { className: 'result', ariaLive: 'polite', hidden: true })
  const copy = el('button', { type: 'button' }, 'Copy the curl line')
  const form = el(
    'form',
    { autocomplete: 'off' },
    el('h4', {}, 'Try it'),
    parameters.map((each) => field(operation, each, show)),
  )
  if (example) {
    const rows = pretty(example).split('\n').length + 1
    form.append(
      el(
        'label',
        {},
        'Body',
        el('textarea', { name: 'body', rows, spellcheck: false, value: pretty(example) }),
      ),
    )
  }
  form.append(
    line,
    el(
      'div',
      { className: 'buttons' },
      el('button', { className: 'send' }, `Send ${method}`),
      copy,
    ),
  )
  function show() {
    line.textContent = curlLine(operation, requestOf(operation, form))
  }
  form.addEventListener('input', show)
  copy.addEventListener('click', () => copyText(line, copy))
  form.addEventListener('submit', async (event) => {
    event.preventDefault()
    const request = requestOf(operation, form)
    const question = `DELETE ${request.url}\n\nThis cannot be undone. Send it?`
    if (method === 'DELETE' && !confirm(question)) return
    result.hidden = false
    result.replaceChildren('…')
    result.replaceChildren(...(await send(request)))
  })
  show()
  return el(
    'div',
    { className: 'try', role: 'group', ariaLabel: `Try ${method} ${path}` },
    form,
    result,
  )
}

/** The input of a parameter; of a list as many as are wanted. */
function field({ method }, { name, required, schema }, changed) {
  const input = () => el('input', { name, required, spellcheck: false, ariaLabel: name })
  // `me` is there to begin with, but what is to be deleted must be typed.
  const [sample = ''] = required && method !== 'DELETE' ? (schema.examples ?? []) : []
  const first = Object.assign(input(), { value: sample })
  const label = el('label', {}, el('code', {}, name), first)
  if (deref(schema).type !== 'array') return label
  const more = el('button', { type: 'button', className: 'more' }, `Another ${name}`)
  more.addEventListener('click', () => {
    const added = input()
    label.append(added)
    added.focus()
    changed()
  })
  return el('div', {}, label, more)
}

function requestOf({ path, method, parameters, requestBody }, form) {
  const fields = new FormData(form)
  const query = new URLSearchParams()
  const headers = {}
  let target = path
  for (const name of new Set(parameters.map((each) => each.name))) {
    const { in: place } = parameters.find((each) => each.name === name)
    for (const value of fields.getAll(name)) {
      if (value === '') continue
      if (place === 'query') query.append(name, value)
      if (place === 'header') headers[name] = value
      if (place === 'path') target = target.replace(`{${name}}`, encodeURIComponent(value))
    }
  }
  const body = requestBody && fields.get('body') ? fields.get('body') : undefined
  if (body) headers['Content-Type'] = 'application/json'
  const search = query.size > 0 ? `?${query}` : ''
  return { method, url: `${base}${target}${search}`, headers, body }
}

const quoted = (text) => `'${text.replaceAll(`'`, `'\\''`)}'`

/** The same call for a shell, which has the key in a variable, so that it is in no history. */
function curlLine({ access }, { method, url, headers, body }) {
  const parts = [`curl${method === 'GET' ? '' : ` -X ${method}`} ${quoted(url)}`]
  if (access !== 'anyone') parts.push('-H "X-Api-Key: $KEY"')
  for (const each of Object.entries(headers)) parts.push(`-H ${quoted(each.join(': '))}`)
  if (body) parts.push(`-d ${quoted(body)}`)
  return parts.join(' \\\n  ')
}

async function copyText(node, button) {
  const label = button.textContent
  try {
    await navigator.clipboard.writeText(node.textContent)
    button.textContent = 'Copied'
  } catch {
    // Without TLS a page has no clipboard.
    getSelection().selectAllChildren(node)
    button.textContent = 'Selected: copy it'
  }
  setTimeout(() => {
    button.textContent = label
  }, 2000)
}

/** Sends a request and returns what to show of the answer. */
async function send({ url, method, headers, body }) {
  const all = key.value ? { ...headers, 'X-Api-Key': key.value } : headers
  try {
    const start = performance.now()
    const reply = await fetch(url, { method, headers: all, body, cache: 'no-store' })
    const text = await reply.text()
    const ms = Math.round(performance.now() - start)
    const received = [...reply.headers].map((each) => each.join(': ')).join('\n')
    const shown = [
      el('h4', {}, `${reply.status} ${reply.statusText} `, el('small', {}, `after ${ms} ms`)),
      el('pre', {}, text.startsWith('{') ? pretty(JSON.parse(text)) : text || 'No body.'),
      el('details', {}, el('summary', { className: 'soft' }, 'Headers'), el('pre', {}, received)),
    ]
    return [...shown, ...offerKey(text)]
  } catch ({ message }) {
    return [`No answer: ${message}`]
  }
}

/** A button that takes over the key which an answer shows. */
function offerKey(text) {
  const [found] = /usk_[0-9A-Za-z]{49}/.exec(text) ?? []
  if (found === undefined || found === key.value) return []
  const button = el('button', { type: 'button' }, 'Call with this key from now on')
  button.addEventListener('click', () => {
    key.value = found
    button.replaceWith('This page calls with that key now.')
  })
  return [button]
}
