// The page of the document: contents, search, and what each operation takes and answers. `trial.js`
// calls it, and is in the same script.

const byId = (id) => document.getElementById(id)
const key = byId('key')
const search = byId('search')
const base = new URL('.', location).href.slice(0, -1)
let api

const who = {
  anyone: 'anyone',
  optional: 'anyone, or with a key',
  key: 'any key',
  self: 'the user itself or an admin',
  admin: 'admins only',
}

/** An element; a child that is a list stands for its members. */
function el(name, props, ...children) {
  const node = Object.assign(document.createElement(name), props)
  node.append(...children.flat())
  return node
}

/** Text in which backticks mark code. */
const rich = (text) => text.split('`').map((part, i) => (i % 2 ? el('code', {}, part) : part))
const pretty = (value) => JSON.stringify(value, null, 2)

/** What a reference means; what is none, as it is. */
function deref(value) {
  if (value?.$ref === undefined) return value
  let found = api
  for (const name of value.$ref.split('/').slice(1)) found = found[name]
  return found
}

const formats = { uuid: 'a UUID', 'date-time': 'an instant such as 2030-01-31T12:00:00Z' }

/** What a schema admits, in words. */
function words(given) {
  const schema = deref(given)
  const types = [schema.type].flat()
  const said = [kindOf(schema, types)]
  if (types.includes('null')) said.push('or null')
  if (schema.default !== undefined) said.push(`else ${schema.default}`)
  return said.join(', ')
}

function kindOf(schema, types) {
  const { minLength = 0, maxLength, minimum, maximum, maxItems, items } = schema
  if (schema.enum) return schema.enum.filter((each) => each !== null).join(' or ')
  if (formats[schema.format]) return formats[schema.format]
  if (types.includes('array')) return `a list of at most ${maxItems} of: ${words(items)}`
  if (types.includes('integer')) return `a whole number from ${minimum} to ${maximum}`
  if (types.includes('boolean')) return 'true or false'
  if (types.includes('object')) return 'an object'
  return maxLength ? `text of ${minLength} to ${maxLength} characters` : 'text'
}

function member(name, schema, isRequired) {
  const { description = '' } = deref(schema)
  const term = el('dt', {}, el('code', {}, name), el('small', {}, isRequired ? ' required' : ''))
  const said = el('dd', { className: 'soft' }, words(schema))
  if (description) said.append('. ', ...rich(description))
  return [term, said]
}

function members(title, list) {
  if (list.length === 0) return []
  return [el('h4', {}, title), el('dl', { className: title.toLowerCase() }, list)]
}

/** What an operation takes and answers. */
function explanation(operation) {
  const { id, path, method, summary, description, parameters, responses } = operation
  const schema = deref(operation.requestBody?.content['application/json'].schema)
  const given = parameters.flatMap((each) =>
    member(each.name, { ...each.schema, description: each.description }, each.required),
  )
  const body = Object.entries(schema?.properties ?? {}).flatMap(([name, each]) =>
    member(name, each, schema.required?.includes(name)),
  )
  return el(
    'div',
    {},
    el('h3', {}, el('a', { href: `#${id}` }, summary)),
    el(
      'p',
      {},
      el('span', { className: `method ${method}` }, method),
      ' ',
      el('code', {}, path),
      ' ',
      el('span', { className: `who ${operation.access}` }, who[operation.access]),
    ),
    el('p', {}, rich(description)),
    members('Parameters', given),
    members('Body', body),
    members('Answers', Object.entries(responses).flatMap(answer)),
  )
}

function answer([status, given]) {
  const { description, content = {}, 'x-codes': codes } = deref(given)
  const example = content['application/json']?.example
  const said = el('dd', {})
  for (const sentence of description.split(codes ? '; ' : '\n')) {
    said.append(el('div', {}, ...rich(sentence)))
  }
  if (example && status < 400) {
    const shown = el('details', {}, el('summary', { className: 'soft' }, 'Example'))
    shown.append(el('pre', {}, pretty(example)))
    said.append(shown)
  }
  return [el('dt', {}, el('code', {}, status)), said]
}

/** Shows the operations that have every word, and hides the others. */
function filter(operations) {
  const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean)
  let count = 0
  for (const { text, article, link } of operations) {
    const isFound = wanted.every((word) => text.includes(word))
    article.hidden = !isFound
    link.hidden = !isFound
    if (isFound) count++
  }
  for (const group of document.querySelectorAll('section, nav ul')) {
    group.hidden = !group.querySelector('article:not([hidden]), li:not(.group, [hidden])')
  }
  byId('found').hidden = wanted.length === 0
  byId('found').textContent = `${count} of ${operations.length} operations`
}

/** Marks in the contents what is read. */
function follow(operations) {
  const links = new Map(operations.map(({ article, link }) => [article, link.firstChild]))
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        const link = links.get(target)
        if (isIntersecting) link.setAttribute('aria-current', 'true')
        else link.removeAttribute('aria-current')
      }
    },
    { rootMargin: '-10% 0px -80%' },
  )
  for (const { article } of operations) observer.observe(article)
}

function readOperations() {
  const operations = []
  for (const [path, item] of Object.entries(api.paths)) {
    for (const [method, each] of Object.entries(item)) {
      if (each.operationId === undefined) continue
      const operation = { ...each, path, method: method.toUpperCase(), access: each['x-access'] }
      operations.push({ ...operation, id: each.operationId, parameters: each.parameters ?? [] })
    }
  }
  return operations
}

function place(operation) {
  const { id, summary, method } = operation
  const article = el('article', { id }, explanation(operation), trial(operation))
  const link = el(
    'li',
    {},
    el('a', { href: `#${id}` }, summary, el('span', { className: `method ${method}` }, method)),
  )
  const text = `${article.textContent} ${id}`.toLowerCase()
  return { tag: operation.tags[0], article, link, text }
}

async function show() {
  const reply = await fetch('openapi.json')
  api = await reply.json()
  byId('version').textContent = api.info.version
  const operations = readOperations().map(place)
  const intro = api.info.description.split('\n\n').map((text) => el('p', {}, rich(text)))
  byId('main').replaceChildren(...intro)
  const nav = document.querySelector('nav')
  for (const { name, description } of api.tags) {
    const own = operations.filter(({ tag }) => tag === name)
    if (own.length === 0) continue
    byId('main').append(
      el(
        'section',
        { id: name },
        el('h2', {}, `${name} `, el('small', {}, description)),
        own.map(({ article }) => article),
      ),
    )
    nav.append(
      el(
        'ul',
        {},
        el('li', { className: 'group' }, el('a', { href: `#${name}` }, name)),
        own.map(({ link }) => link),
      ),
    )
  }
  search.addEventListener('input', () => filter(operations))
  follow(operations)
  byId(location.hash.slice(1))?.scrollIntoView()
}

byId('tools').hidden = false
byId('state').textContent = 'Reading openapi.json …'
byId('contents').open = matchMedia('(min-width: 60rem)').matches
document.addEventListener('keydown', (event) => {
  if (event.key !== '/' || event.target.closest('input, textarea')) return
  event.preventDefault()
  search.focus()
})
show().catch(({ message }) => {
  byId('state')?.replaceChildren(`openapi.json cannot be read: ${message}`)
})
