// What the admin page is made of: elements, forms, dialogs, lists. An answer of the service becomes
// text, never markup. The page's files are joined to one module, which admin.js starts.

const byId = (id) => document.getElementById(id)

/** An element; its children are one or a list, in which lists stand for their members. */
function el(name, children = [], props) {
  const node = Object.assign(document.createElement(name), props)
  node.append(...[children].flat(Infinity))
  return node
}

const zone = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' })

/** An instant in the reader's time zone; in UTC when it is pointed at. */
function when(instant) {
  if (!instant) return 'never'
  return el('time', zone.format(new Date(instant)), { dateTime: instant, title: instant })
}

const notice = el('output')

/** Says something where it is seen and read aloud: in the dialog in front, if there is one. */
function say(text) {
  const places = [byId('main'), ...document.querySelectorAll('dialog')]
  if (notice.parentNode !== places.at(-1)) places.at(-1).append(notice)
  notice.textContent = text
}

/** Says what failed; what a log-out interrupts has not. */
const tell = ({ name, message }) => name === 'AbortError' || say(message)

/** A button, which says why if its work fails. */
function button(text, work, props) {
  function onclick() {
    say('')
    work().catch(tell)
  }
  return el('button', text, { type: 'button', onclick, ...props })
}

/** A labelled input, with a hint and room for what is wrong with it. */
const field = (label, input, hint = '') =>
  el('label', [el('span', label), input, el('small', hint), el('em')])
const textField = (label, name, hint, props) =>
  field(label, el('input', [], { name, autocomplete: 'off', ...props }), hint)
const areaField = (label, name, hint) => field(label, el('textarea', [], { name, rows: 4 }), hint)
const boxField = (label, name) => textField(label, name, '', { type: 'checkbox' })

function choiceField(label, name, choices) {
  const options = choices.split(' ').map((each) => el('option', each))
  return field(label, el('select', options, { name }))
}

function passwordField(label, name, autocomplete, hint) {
  return textField(label, name, hint, { type: 'password', autocomplete })
}

const ifAny = (text) => text || undefined

/** What the API takes, of what an input of that name holds; what is no JSON it refuses. */
const readers = {
  password: ifAny,
  currentPassword: ifAny,
  code: ifAny,
  overlapSeconds: Number,
  permissions: (text) => text.split(/[\s,]+/).filter(Boolean),
  validUntil: (text) => (text ? new Date(text).toISOString() : undefined),
  metadata(text) {
    try {
      return JSON.parse(text)
    } catch {
      return text
    }
  },
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
    const text = input.name === 'metadata' ? JSON.stringify(value, null, 2) : value
    input.checked = value === true
    input.value = Array.isArray(text) ? text.join(' ') : text
  }
}

const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000))

/**
 * A form. After a failure all that was typed is still there, what is wrong stands beside each
 * field, and the next attempt waits as long as the service demands.
 */
function makeForm(fields, action, send, className = 'primary') {
  const fault = el('p', [], { role: 'alert', className: 'fault' })

  async function show({ message, errors = [], seconds = 0 }) {
    for (const input of fields.flatMap((each) => [...each.querySelectorAll('[name]')])) {
      const own = errors.filter((each) => each.field.split('[')[0] === input.name)
      input.ariaInvalid = own.length > 0
      input.parentNode.lastChild.textContent = own.map((each) => each.message).join(', ')
    }
    form.querySelector('[aria-invalid=true]')?.focus()
    for (let left = seconds; left > 0; left--) {
      fault.textContent = `${message}: wait ${left} s`
      await sleep(1)
    }
    fault.textContent = message
  }

  async function onsubmit(event) {
    event.preventDefault()
    if (form.ariaBusy === 'true') return
    form.ariaBusy = 'true'
    say('')
    // What is typed while it is sent is not.
    form.className = ''
    try {
      await send(valuesOf(form), form)
      await show({ message: '' })
    } catch (error) {
      form.className = 'dirty'
      if (error.name !== 'AbortError') await show(error)
    }
    form.ariaBusy = 'false'
  }

  function oninput() {
    form.className = 'dirty'
  }
  const props = { onsubmit, oninput, noValidate: true }
  const form = el('form', [fields, fault, el('button', action, { className })], props)
  return form
}

const first = '[name]:not([readonly]), pre + button'

/** Whether nothing would be lost, or may be. */
const mayLose = (node) => !node.querySelector('.dirty') || confirm('Discard what you typed?')

/**
 * Opens a dialog; the focus goes to what is typed or copied first. When it closes, the focus
 * returns, and nothing of it stays.
 */
function openDialog(title, children, props) {
  const cross = button('Close', async () => mayLose(dialog) && dialog.close())
  const dialog = el('dialog', [el('header', [el('h2', title), cross]), children], {
    ariaLabel: title,
    oncancel: (event) => mayLose(dialog) || event.preventDefault(),
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
  if (dialog.className !== 'panel') dialog.querySelector(first)?.focus()
  return dialog
}

/** Shows secrets by their names, each with a button that copies it, this once. */
function reveal(title, secrets, onclose) {
  const shown = Object.entries(secrets).map(([name, secret]) => [
    el('h3', name),
    el('pre', secret),
    button('Copy', async () => {
      await navigator.clipboard.writeText(secret)
      say('Copied')
    }),
  ])
  openDialog(title, [el('p', 'Shown this once: keep it now.'), shown], { onclose })
}

/** Asks for what some work takes; the button is named by what it does. Shows secrets it returns. */
function ask(title, { text = '', fields = [], work, after, className }) {
  async function send(values) {
    const secrets = await work(values)
    dialog.close()
    const finish = () => after?.().catch(tell)
    if (secrets) reveal(title, secrets, finish)
    else await finish()
  }
  const form = makeForm(fields, title, send, className)
  const dialog = openDialog(title, [el('p', text), form])
  return form
}

/** A table of pages, one below the other; `cellsOf` makes the cells of an item. */
function makeList(heads, empty, cellsOf) {
  const body = el('tbody')
  const note = el('p')
  const more = el('button', 'Next page', { hidden: true })
  const titles = heads.map((each) => el('th', each, { scope: 'col' }))
  let latest = 0

  /** Drops what is answered after a later question. */
  async function load(path, query, isNext) {
    latest++
    const mine = latest
    const { details, next } = await call('GET', path + query)
    if (mine !== latest) return
    const rows = details.map((each) => {
      const cells = cellsOf(each).map((cell) => el('td', [cell]))
      return el('tr', cells)
    })
    if (!isNext) body.replaceChildren()
    body.append(...rows)
    note.textContent = rows.length > 0 ? '' : empty
    more.hidden = !next
    more.onclick = () => load(path, next, true).catch(tell)
    if (isNext) rows[0]?.querySelector('a')?.focus()
  }
  const table = el('table', [el('thead', el('tr', titles)), body])
  return { node: el('article', [table, note, more]), load }
}
