// What the admin page is made of: elements, forms, dialogs, lists. An answer of the service becomes
// text, never markup. The page's files are joined to one module, which admin.js starts.

const zone = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' })

/** An instant in the reader's time zone; in UTC when it is pointed at. */
function when(instant) {
  if (!instant) return 'never'
  return el('time', zone.format(new Date(instant)), { dateTime: instant, title: instant })
}

const notice = el('output')

/** Says something where it is seen and read aloud: in the dialog in front, if there is one. */
function say(text) {
  const place = [...document.querySelectorAll('main, dialog')].at(-1)
  if (notice.parentNode !== place) place.append(notice)
  notice.textContent = text
}

/** Says what failed; what a log-out interrupts has not. */
const tell = ({ name, message }) => name === 'AbortError' || say(message)

/** Does some work, unless it is under way, and says why if it fails. */
async function busily(node, work) {
  if (node.ariaBusy === 'true') return
  node.ariaBusy = 'true'
  say('')
  await work().catch(tell)
  node.ariaBusy = 'false'
}

function button(text, work, props) {
  // The second click of two may meet what the first has led to.
  const onclick = ({ detail }) => detail > 1 || busily(node, work)
  const node = el('button', text, { type: 'button', onclick, ...props })
  return node
}

/** A labelled input, with a hint and room for what is wrong with it. */
const field = (label, input, hint = '') =>
  el('label', [el('span', label), input, el('small', hint), el('em')])
const textField = (label, name, hint, props) =>
  field(label, el('input', [], { name, autocomplete: 'off', ...props }), hint)
const areaField = (label, name, hint, text) =>
  field(label, el('textarea', text, { name, rows: 4 }), hint)
const boxField = (label, name, checked) => textField(label, name, '', { type: 'checkbox', checked })

function choiceField(label, name, choices) {
  const options = choices.split(' ').map((each) => el('option', each))
  return field(label, el('select', options, { name }))
}

function passwordField(label, name, autocomplete, hint) {
  return textField(label, name, hint, { type: 'password', autocomplete })
}

const ifAny = (text) => text || undefined

/** What JSON says; other text as it is. */
function parse(text) {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

/** What the API takes, of what an input of that name holds; what is no JSON it refuses. */
const readers = {
  password: ifAny,
  currentPassword: ifAny,
  code: ifAny,
  overlapSeconds: Number,
  permissions: (text) => text.split(/[\s,]+/).filter(Boolean),
  validUntil: (text) => (text ? new Date(text).toISOString() : undefined),
  metadata: parse,
}

/** What was typed. */
function valuesOf(form) {
  const values = {}
  for (const { name, type, value, checked, validity } of form.elements) {
    // Half a date has no value, which would mean that there is no end.
    if (validity.badInput) {
      const errors = [{ field: name, message: 'is not complete' }]
      throw Object.assign(new Error('Not done'), { errors })
    }
    const read = readers[name] ?? String
    if (name) values[name] = type === 'checkbox' ? checked : read(value)
  }
  return values
}

/** Writes what the API has of each field. */
function fill(form, values) {
  for (const input of form.elements) {
    const value = values[input.name] ?? ''
    // A text is what was typed, and no JSON yet.
    const isJson = input.name === 'metadata' && typeof value === 'object'
    input.checked = value === true
    input.value = isJson ? JSON.stringify(value, null, 2) : [value].flat().join(' ')
  }
}

/** Waits; fails as soon as a signal ends that. */
const sleep = (seconds, signal) =>
  new Promise((resolve, reject) => {
    setTimeout(resolve, seconds * 1000)
    signal?.addEventListener('abort', reject)
  })

/**
 * A form. After a failure all that was typed is still there, what is wrong stands beside each
 * field, and the next attempt waits as long as the service demands.
 */
function makeForm(fields, action, send) {
  const fault = el('p', [], { role: 'alert', className: 'fault' })

  async function show({ message, errors = [], seconds = 0 }) {
    for (const input of form.querySelectorAll('[name]')) {
      const own = errors.filter((each) => each.field.split('[')[0] === input.name)
      input.ariaInvalid = own.length > 0
      input.parentNode.lastChild.textContent = own.map((each) => each.message).join(', ')
    }
    form.querySelector('[aria-invalid=true]')?.focus()
    if (seconds) {
      fault.textContent = `${message}: wait ${seconds} s`
      await sleep(seconds)
    }
    fault.textContent = message
  }

  async function submit() {
    // Typing during the request marks it again.
    form.className = ''
    try {
      await send(valuesOf(form))
      await show({ message: '' })
    } catch (error) {
      form.className = 'dirty'
      if (error.name !== 'AbortError') await show(error)
    }
  }

  const form = el('form', [fields, fault, el('button', action, { className: 'primary' })], {
    noValidate: true,
    onsubmit(event) {
      event.preventDefault()
      busily(form, submit)
    },
    oninput() {
      form.className = 'dirty'
    },
  })
  return form
}

/** Whether nothing typed would be lost, or its author agrees. */
const mayLose = (node) => !node.querySelector('dialog .dirty') || confirm('Discard what you typed?')

/**
 * Opens a dialog; the focus goes to what is typed or copied first. When it closes, the focus
 * returns, and nothing of it stays.
 */
function openDialog(title, children, props) {
  const cross = button('Close', async () => mayLose(dialog) && dialog.close())
  const dialog = el('dialog', [el('header', [el('h2', title), cross]), children], {
    ariaLabel: title,
    // Not every browser knows of closedBy.
    oncancel: (event) => (dialog.closedBy !== 'none' && mayLose(dialog)) || event.preventDefault(),
    ...props,
  })
  dialog.addEventListener('close', () => {
    dialog.remove()
    // Keys are drawn again, and with them the button that had the focus.
    if (document.activeElement === document.body) document.querySelector('[tabindex]')?.focus()
    say(notice.textContent)
  })
  document.body.append(dialog)
  dialog.showModal()
  const first = '[name]:not([readonly]), pre + button'
  if (dialog.className !== 'panel') dialog.querySelector(first)?.focus()
  return dialog
}

/** Shows secrets by their names, each with a button that copies it, until they are closed. */
function reveal(title, secrets) {
  const shown = Object.entries(secrets).map(([name, secret]) => [
    el('h3', name),
    el('pre', secret),
    button('Copy', async () => {
      await navigator.clipboard.writeText(secret)
      say('Copied')
    }),
  ])
  openDialog(title, [el('p', 'Shown this once: keep it now.'), shown], { closedBy: 'none' })
}

/**
 * Asks for what some work takes, in a dialog whose button is named by what it does, until that is
 * done; work that returns false is not yet. Shows secrets that it returns. Fails when the dialog is
 * closed before.
 */
function ask(title, { text, fields = [], work, ...props }) {
  return new Promise((resolve, reject) => {
    async function send(typed) {
      const secrets = await work(typed)
      if (secrets === false) return
      resolve()
      dialog.close()
      if (secrets) reveal(title, secrets)
    }
    const form = makeForm(fields, title, send)
    const onclose = () => reject(new Error('Not done'))
    const dialog = openDialog(title, [el('p', text), form], { onclose, ...props })
  })
}

/** Asks before it ends what a path names. */
const askToEnd = (title, path, text) =>
  ask(title, { text, className: 'danger', work: async () => void (await call('DELETE', path)) })

const focusRow = (id) => byId(id)?.querySelector('a')?.focus()

/** A table of pages, one below the other; `cellsOf` makes the cells of an item. */
function makeList(path, heads, empty, cellsOf) {
  const body = el('tbody')
  const note = el('p')
  const more = el('button', 'Next page', { hidden: true })
  const titles = heads.map((each) => el('th', each))
  let loading = new AbortController()

  const rowsOf = (items) =>
    items.map((each) => {
      const cells = cellsOf(each).map((cell) => el('td', cell))
      return el('tr', cells, { id: each.id })
    })

  /** The query whose answer is shown. */
  let shown
  const read = (query) => call('GET', path + query, { signal: loading.signal })

  /** Ends the question before it. */
  async function load(query, isNext) {
    loading.abort()
    loading = new AbortController()
    const { details, next } = await read(query)
    const rows = rowsOf(details)
    const focused = isNext ? rows[0] : document.activeElement.closest('tr')
    if (!isNext) {
      shown = query
      body.replaceChildren()
    }
    body.append(...rows)
    focusRow(focused?.id)
    note.textContent = rows[0] ? '' : empty
    more.hidden = !next
    more.onclick = () => load(next, true).catch(tell)
  }

  /** Puts what is new above the rest, which is left as it is unless there is a page of news. */
  async function follow() {
    if (!shown) return
    const { details } = await read(shown)
    const count = details.findIndex(({ id }) => id === body.firstChild?.id)
    if (count < 0) await load(shown)
    else body.prepend(...rowsOf(details.slice(0, count)))
  }
  const table = el('table', [el('thead', el('tr', titles)), body])
  return { node: el('article', [table, note, more]), load, follow }
}
