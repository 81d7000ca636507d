// Reads TypeScript as text, well enough for the rules of the house: the code is formatted, so that
// indentation tells where a function ends.

/** Matches what one of the patterns matches, with the flags of the first. */
export const eitherOf = (...patterns: [RegExp, ...RegExp[]]): RegExp =>
  new RegExp(patterns.map(({ source }) => source).join('|'), patterns[0].flags)

const piece = eitherOf(
  // Comments of TypeScript, shell, SQL and HTML.
  /(?<comment>(?<![:\\'"`])\/\/.*|\/\*[\s\S]*?\*\/|^\s*#.*|(?<=\s|^)--\s.*|<!--[\s\S]*?-->)/gmu,
  /'(?:\\.|[^'\\\n])*'/u,
  /"(?:\\.|[^"\\\n])*"/u,
  /[\p{L}\p{N}_$]+/u,
  /=>|===|!==|\?\?=?|\?\.|&&|\|\||\.\.\.|[^\s\p{L}\p{N}_$]/u,
)

/** How many words and operators a text has outside comments; a quoted string is one word. */
export function sizeOf(text: string): number {
  let size = 0
  for (const { groups } of text.matchAll(piece)) {
    if (groups?.['comment'] === undefined) size++
  }
  return size
}

const comment = /\/\/[^\n]*|\/\*[\s\S]*?\*\//y
const quoted = /'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"/y
const regularExpression = /\/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n[])+\/[a-z]*/y
/** What stands before a regular expression; elsewhere a slash divides. */
const beforeExpression = /(^|[(,=:[!&|?{}\n;]|=>|return|case)\s*$/

function matchAt(pattern: RegExp, text: string, at: number): string | undefined {
  pattern.lastIndex = at
  return pattern.exec(text)?.[0]
}

const hide = (text: string) => text.replace(/[^\n]/g, ' ')

/** The same text with comments and the inside of strings, templates and patterns blanked. */
export function blank(text: string): string {
  let code = ''
  /** For each open template, how many braces are open inside its current expression. */
  const templates: number[] = []

  /** Blanks a template from `at` to its end or its next expression. */
  function readTemplate(at: number): number {
    const inside = matchAt(/(?:\\[\s\S]|\$(?!\{)|[^\\`$])*/y, text, at)!
    const end = at + inside.length
    const isExpression = text[end] === '$'
    const ending = isExpression ? '${' : '`'
    code += hide(inside) + ending
    if (isExpression) templates.push(0)
    return end + ending.length
  }

  /** Copies one character; behind the brace that ends an expression its template goes on. */
  function readCharacter(at: number): number {
    const character = text[at]!
    const open = templates.length - 1
    code += character
    if (character === '`') return readTemplate(at + 1)
    if (open >= 0 && character === '{') templates[open]!++
    if (open >= 0 && character === '}') {
      if (templates[open] === 0) {
        templates.pop()
        return readTemplate(at + 1)
      }
      templates[open]!--
    }
    return at + 1
  }

  let at = 0
  while (at < text.length) {
    const remark = matchAt(comment, text, at)
    const isExpression = text[at] === '/' && beforeExpression.test(code.slice(-20))
    const literal = matchAt(isExpression ? regularExpression : quoted, text, at)
    if (remark !== undefined) {
      code += hide(remark)
      at += remark.length
    } else if (literal !== undefined) {
      code += literal[0] + hide(literal.slice(1, -1)) + literal.at(-1)
      at += literal.length
    } else {
      at = readCharacter(at)
    }
  }
  return code.replace(/[ \t]+$/gm, '')
}

/** Brackets in blanked code: where they open and close, and what they hold. */
interface Pair {
  open: number
  close: number
  kind: 'parameters' | 'arguments' | 'head' | 'group' | 'index' | 'list' | 'braces'
  /** How many members are in it, separated by commas. */
  members: number
}

function kindOf(code: string, open: number, close: number): Pair['kind'] {
  const before = code.slice(Math.max(0, open - 40), open)
  const after = code.slice(close + 1, close + 5)
  if (code[open] === '{') return 'braces'
  if (code[open] === '[') return /[\w)\].]$/.test(before) ? 'index' : 'list'
  if (/\b(if|for|while|switch|catch)\s*$/.test(before)) return 'head'
  if (/^ (=>|\{)|^\??:\s/.test(after)) return 'parameters'
  if (/\b(return|await|case|of|in|yield|typeof) $/.test(before)) return 'group'
  return /[\w)\].]!?$|[^=]>$/.test(before) ? 'arguments' : 'group'
}

/** The brackets of blanked code, those inside before those around. */
function pairBrackets(code: string): Pair[] {
  const pairs: Pair[] = []
  const open: { pair: Pair; isEmpty: boolean; generics: number }[] = []
  for (const { 0: character, index } of code.matchAll(/\S/g)) {
    const last = open.at(-1)
    if (last !== undefined && ')]}'.includes(character)) {
      open.pop()
      last.pair.close = index
      last.pair.kind = kindOf(code, last.pair.open, index)
      pairs.push(last.pair)
      continue
    }
    if (last !== undefined) {
      if (last.isEmpty) last.pair.members++
      const before = code[index - 1]!
      if (character === '<' && /\w/.test(before)) last.generics++
      if (character === '>' && /[^=\s]/.test(before)) last.generics--
      last.isEmpty = character === ',' && last.generics === 0
    }
    if ('([{'.includes(character)) {
      const pair: Pair = { open: index, close: 0, kind: 'group', members: 0 }
      open.push({ pair, isEmpty: true, generics: 0 })
    }
  }
  return pairs
}

/** The line, from 1 on, of a place in a text. */
export const lineOf = (text: string, at: number): number => text.slice(0, at).split('\n').length

/** Where blanked code has functions of more than three arguments. */
export function findManyArguments(code: string): number[] {
  const many = pairBrackets(code).filter(
    ({ kind, members }) => kind === 'parameters' && members > 3,
  )
  return many.map(({ open }) => open)
}

/** Where blanked code joins expressions by a comma, for the effect of all but the last. */
export function findCommaOperators(code: string): number[] {
  const joined = pairBrackets(code).filter(({ kind, members }) => kind === 'group' && members > 1)
  return joined.map(({ open }) => open)
}

/** Where blanked code assigns inside an expression. */
export function findInnerAssignments(code: string): number[] {
  const pairs = pairBrackets(code)
  const found: number[] = []
  for (const { index } of code.matchAll(/(?<![=!<>])(?:\?\?|\|\||&&|[-+*/%|&^])?=(?![=>])/g)) {
    const around = pairs.find(({ open, close }) => open < index && index < close)
    if (around === undefined || around.kind === 'braces') continue
    const isLoop = around.kind === 'head' && /\bfor $/.test(code.slice(0, around.open))
    const isDefault = around.kind === 'parameters' || around.kind === 'list'
    if (!isLoop && !isDefault) found.push(index)
  }
  return found
}

interface Scope {
  /** A conditional operator goes on. */
  isIn: boolean
  /** One goes on outside, and so at the beginning of each member. */
  wasIn: boolean
  /** What comes is a type, whose conditionals do not count. */
  isType: boolean
  /** A line that is indented no deeper begins a statement. */
  indent: number
}

function endExpression(scope: Scope) {
  scope.isIn = scope.wasIn
  scope.isType = false
}

const token = /[([{]|[)\]}]|[,;]|\n+ *|\bextends\b|(?<=\s)\?(?=\s)/g

/** Where blanked code has a conditional operator inside another one of the same expression. */
export function findNestedConditionals(code: string): number[] {
  const found: number[] = []
  const scopes: Scope[] = [{ isIn: false, wasIn: false, isType: false, indent: 0 }]
  let indent = 0
  for (const { 0: text, index } of code.matchAll(token)) {
    const scope = scopes.at(-1)!
    if (text.startsWith('\n')) {
      indent = text.replaceAll('\n', '').length
      if (indent <= scope.indent) endExpression(scope)
    } else if ('([{'.includes(text)) {
      const isBody = text === '{' && /(=>|\)) $/.test(code.slice(Math.max(0, index - 3), index))
      const isIn = scope.isIn && !isBody
      const isBroken = code[index + 1] === '\n'
      scopes.push({ isIn, wasIn: isIn, isType: false, indent: isBroken ? indent + 2 : indent })
    } else if (')]}'.includes(text)) {
      if (scopes.length > 1) scopes.pop()
    } else if (text === 'extends') {
      scope.isType = true
    } else if (text === '?') {
      if (scope.isIn) found.push(index)
      scope.isIn = !scope.isType
    } else {
      endExpression(scope)
    }
  }
  return found
}

/** How many branches blanked code has: one, and one more for each decision. */
export const countBranches = (code: string): number =>
  1 + [...code.matchAll(/\b(?:if|for|while|case)\b|&&|\|\||\?\?|\?\.| \? /g)].length

/** A function, its lines and branches without those of the functions inside it. */
export interface FoundFunction {
  name: string
  line: number
  lines: number
  branches: number
}

const opener =
  /\bfunction\b|=>$|=> [{(]+$|^\s*(async )?\*?[\w#]+(<.*>)?\(.*\{$|^\s*\)(: .+)? (=> )?\{$/
const statement = /^\s*(\} )?(if|else|for|while|switch|catch|try|do|return)\b/
const named = /^(?:export )?(?:async )?(?:function\*? |const |let )?(?:async )?([\w#]+)/
const indentOf = (line: string) => line.length - line.trimStart().length

/** The functions of blanked code. */
export function findFunctions(code: string): FoundFunction[] {
  const found: { name: string; line: number; indent: number; own: string[] }[] = []
  const open: typeof found = []
  const lines = code.split('\n')

  /** Whether `line`, which is indented no deeper, ends a function or lies behind it. */
  function isPast(line: string, indent: number) {
    const last = open.at(-1)
    if (last === undefined || indent > last.indent) return false
    const isClosing = indent === last.indent && /^\s*[\])}]/.test(line)
    return !isClosing || opener.test(line)
  }

  for (const [index, line] of lines.entries()) {
    if (line === '') continue
    const indent = indentOf(line)
    while (isPast(line, indent)) open.pop()
    const head = /^\s*\)/.test(line) ? headOf(lines, index) : line
    if (opener.test(line) && !statement.test(line) && !statement.test(head)) {
      const name = named.exec(head.trim())?.[1] ?? ''
      const begun = { name, line: index + 1, indent, own: [] }
      found.push(begun)
      open.push(begun)
    }
    open.at(-1)?.own.push(line)
  }
  return found.map(({ name, line, own }) => ({
    name,
    line,
    lines: own.length,
    branches: countBranches(own.join('\n')),
  }))
}

/** The line on which the parenthesis that ends on the line `index` begins. */
function headOf(lines: string[], index: number): string {
  const indent = indentOf(lines[index]!)
  for (let at = index - 1; at >= 0; at--) {
    const line = lines[at]!
    if (line !== '' && indentOf(line) <= indent) return line
  }
  return ''
}

/** How many members of a list, each with a comma behind it, lie on one line of blanked code. */
export function countMembers(line: string): number {
  if (!line.endsWith(',')) return 0
  let depth = 0
  let members = 0
  for (const character of line.replaceAll('=>', '')) {
    if ('([{<'.includes(character)) depth++
    if (')]}>'.includes(character)) depth--
    if (depth < 0) return 0
    if (depth === 0 && character === ',') members++
  }
  return members
}
