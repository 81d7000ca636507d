// The page of the document: contents, search, what each operation takes and answers, and a form
// that calls it. It makes elements one by one: its policy admits no markup that is made of text.

const key = byId('key')
const base = new URL('.', location).href.slice(0, -1)
let api

const callers = {
  anyone: 'anyone',
  optional: 'anyone, or with a key',
  key: 'any key',
  self: 'the user itself or an admin',
  admin: 'admins only',
}

/** Text in which backticks mark code. */
const rich = (text) => text.split('`').map((part, i) => (i % 2 ? el('code', part) : part))
const pretty = (value) => JSON.stringify(value, null, 2)
const folded = (title, text) => el('details', [el('summary', title), el('pre', text)])

/** What a reference means; what is none, as it is. */
function deref(value) {
  if (!value?.$ref) return value
  const names = value.$ref.split('/').slice(1)
  return names.reduce((found, name) => found[name], api)
}

/** What a schema admits: its keywords, as the document has them, but for long patterns. */
function rulesOf(schema) {
  const { description, examples, pattern, items, ...rules } = deref(schema)
  const said = Object.entries(rules).map((each) => each.join(' '))
  if (items) said.push(`each: ${rulesOf(items)}`)
  return said.join(', ')
}

function member({ name, schema, required, description = deref(schema).description ?? '' }) {
  return [
    el('dt', [el('code', name), required ? ' required' : '']),
    el('dd', [rich(description), ' ', el('small', rulesOf(schema))]),
  ]
}

function answer([status, given]) {
  const { description, content = {} } = deref(given)
  const example = content['application/json']?.example
  const said = el('dd', rich(description.replaceAll('; `', '\n`')))
  if (example && status < 400) said.append(folded('Example', pretty(example)))
  return [el('dt', el('code', status)), said]
}

function list(title, entries) {
  return entries.length === 0 ? [] : [el('h4', title), el('dl', entries)]
}

/** What an operation is for, who may call it, what it takes and answers, and its form. */
function explain(operation) {
  const { operationId: id, path, method, access, parameters, body, responses } = operation
  const { properties = {}, required = [] } = deref(body?.schema) ?? {}
  const members = Object.entries(properties).map(([name, schema]) =>
    member({ name, schema, required: required.includes(name) }),
  )
  const children = [
    el('h3', el('a', operation.summary, { href: `#${id}` })),
    el('code', `${method} ${path}`, { className: method }),
    ' for ',
    el('span', callers[access], { className: access }),
    el('p', rich(operation.description)),
    list('Parameters', parameters.map(member)),
    list('Body', members),
    list('Answers', Object.entries(responses).map(answer)),
    el('details', [el('summary', 'Try it'), trial(operation)]),
  ]
  return el('article', children, { id })
}

/** The form that calls an operation, the curl line for the same, and the answer. */
function trial(operation) {
  const { method, parameters, body } = operation
  const line = el('pre', [], { className: 'curl' })
  const result = el('output', [])
  const copy = el('button', [], {
    type: 'button',
    hidden: !navigator.clipboard,
    async onclick() {
      await navigator.clipboard.writeText(line.textContent)
      copy.textContent = 'Copied'
    },
  })
  const inputs = parameters.map((each) => field(method, each))
  if (body) {
    const input = el('textarea', pretty(body.example), { title: 'body', rows: 8 })
    inputs.push(el('label', ['Body', input]))
  }
  function show() {
    line.textContent = curlLine(operation, requestOf(operation, form))
    copy.textContent = 'Copy the curl line'
  }
  async function call(event) {
    event.preventDefault()
    const request = requestOf(operation, form)
    const question = `DELETE ${request.url}\n\nThis cannot be undone. Send it?`
    if (method === 'DELETE' && !confirm(question)) return
    result.replaceChildren('…')
    result.replaceChildren(...(await send(request)))
  }
  const form = el('form', [inputs, line, el('button', `Send ${method}`), ' ', copy, result], {
    oninput: show,
    onsubmit: call,
  })
  show()
  return form
}

/** The input of a parameter; of a list it takes a value a line. */
function field(method, { name, in: title, required, schema }) {
  const isList = schema.type === 'array'
  // `me` is there to begin with, but what is to be deleted must be typed.
  const [value = ''] = (required && method !== 'DELETE' && schema.examples) || []
  const props = { name, title, required, value, placeholder: isList ? 'one a line' : '' }
  return el('label', [el('code', name), el(isList ? 'textarea' : 'input', [], props)])
}

/** What the form asks for: the title of an input says where its value goes. */
function requestOf({ path, method }, form) {
  const query = new URLSearchParams()
  const request = { method, headers: {} }
  let target = path
  for (const { title, name, value } of form.elements) {
    if (value === '') continue
    if (title === 'path') target = target.replace(`{${name}}`, encodeURIComponent(value))
    if (title === 'header') request.headers[name] = value
    if (title === 'body') {
      request.body = value
      request.headers['Content-Type'] = 'application/json'
    }
    if (title !== 'query') continue
    for (const each of value.trim().split('\n')) query.append(name, each)
  }
  request.url = base + target + (query.size > 0 ? `?${query}` : '')
  return request
}

const quoted = (text) => `'${text.replaceAll(`'`, `'\\''`)}'`

/** The same call for a shell, which has the key in a variable, so that it is in no history. */
function curlLine({ access }, { method, url, headers, body }) {
  const parts = [`curl -X ${method} ${quoted(url)}`]
  if (access !== 'anyone') parts.push('-H "X-Api-Key: $KEY"')
  for (const each of Object.entries(headers)) parts.push(`-H ${quoted(each.join(': '))}`)
  if (body) parts.push(`-d ${quoted(body)}`)
  return parts.join(' \\\n  ')
}

/** Sends a request and returns what to show of the answer. */
async function send({ url, ...request }) {
  if (key.value) request.headers['X-Api-Key'] = key.value
  try {
    const reply = await fetch(url, { ...request, cache: 'no-store' })
    const text = await reply.text()
    const headers = [...reply.headers].map((each) => each.join(': ')).join('\n')
    const shown = text.startsWith('{') ? pretty(JSON.parse(text)) : text
    const title = `${reply.status} ${reply.statusText}`
    return [el('h4', title), el('pre', shown), folded('Headers', headers), ...offerKey(text)]
  } catch ({ message }) {
    return [`No answer: ${message}`]
  }
}

/** A button that takes over the key which an answer shows. */
function offerKey(text) {
  const [found] = /usk_\w{49}/.exec(text) ?? []
  if (found === undefined) return []
  const button = el('button', 'Call with this key from now on', {
    type: 'button',
    onclick() {
      key.value = found
      button.replaceWith('This page calls with that key now.')
    },
  })
  return [button]
}

/** Shows the operations that have every word, hides the others, and lists what is shown. */
function filter() {
  const wanted = byId('search').value.toLowerCase().split(' ')
  for (const article of document.querySelectorAll('article')) {
    const text = `${article.id} ${article.textContent}`.toLowerCase()
    article.hidden = !wanted.every((word) => text.includes(word))
  }
  const shown = document.querySelectorAll(
    'section:has(article:not([hidden])), article:not([hidden])',
  )
  const links = [...shown].map(({ id, localName, firstChild }) =>
    el('a', firstChild.textContent, { href: `#${id}`, className: localName }),
  )
  byId('contents').replaceChildren(...links)
  byId('found').textContent = links.length === 0 ? 'No operation has these words.' : ''
}

async function show() {
  const reply = await fetch('openapi.json')
  api = await reply.json()
  byId('version').textContent = api.info.version
  byId('main').append(el('p', rich(api.info.description)))
  for (const { name, description } of api.tags) {
    const title = el('h2', [`${name} `, el('small', description)])
    byId('main').append(el('section', title, { id: name }))
  }
  for (const [path, item] of Object.entries(api.paths)) {
    for (const [method, { requestBody, ...operation }] of Object.entries(item)) {
      const shown = explain({
        ...operation,
        path,
        method: method.toUpperCase(),
        access: operation['x-access'],
        body: requestBody?.content['application/json'],
      })
      byId(operation.tags[0]).append(shown)
    }
  }
  filter()
  byId(location.hash.slice(1))?.scrollIntoView()
}

byId('tools').hidden = false
byId('folded').open = matchMedia('(min-width: 60rem)').matches
byId('search').oninput = filter
show().catch(({ message }) => byId('main').append(`openapi.json cannot be read: ${message}`))
