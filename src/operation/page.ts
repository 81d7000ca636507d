// The document as a page for people: HTML without a script.
import { failures } from '../errors.ts'
import type { Route } from '../http/route.ts'
import type { JsonSchema } from '../schema.ts'
import { example } from './components.ts'
import {
  codesOf,
  describe,
  description,
  isDescribed,
  parametersOf,
  tags,
  type Parameter,
} from './openapi.ts'

/** The one style of the page. */
export const style = [
  ':root { color-scheme: light dark }',
  'body { max-width: 60rem; margin: auto; padding: 1rem; font: 1rem/1.5 system-ui }',
  'body { overflow-wrap: anywhere }',
  'article { border-top: 1px solid; margin-top: 2rem }',
  'dt { font-weight: bold }',
  'pre { white-space: pre-wrap }',
].join('\n')

/** The page of a route table. */
export function makePage(routes: Route[], version: string): string {
  const described = routes.filter(isDescribed)
  const sections = Object.entries(tags).map(([tag, about]) => {
    const articles = described.filter((route) => route.tag === tag).map(articleOf)
    return `<section><h2>${tag}: ${about}</h2>${articles.join('\n')}</section>`
  })
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>user-service</title>
<style>${style}</style>
<h1>user-service ${version}</h1>
<p>For programs: <a href="openapi.json">openapi.json</a>
<p>${rich(description).replaceAll('\n\n', '<p>')}
<nav><ul><li>${described.map(linkTo).join('<li>')}</ul></nav>
${sections.join('\n')}
`
}

const linkTo = ({ operationId, summary }: Route) => `<a href="#${operationId}">${summary}</a>`

/** Text in which backticks mark code. */
const rich = (text: string) =>
  text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replace(/`(.+?)`/g, '<code>$1</code>')

const sample = (schema: JsonSchema) =>
  `<details><summary>Example</summary>
<pre>${rich(JSON.stringify(example(schema), null, 2))}</pre></details>`

/** What an operation is for, who may call it, what it takes and what it answers. */
function articleOf(route: Route): string {
  const { operationId, method, path, body, replies } = route
  const { properties = {}, required = [] } = body?.json ?? {}
  const members = Object.entries(properties).map(([name, { description = '', ...schema }]) => ({
    name,
    description,
    required: required.includes(name),
    schema,
  }))
  const taken = [...parametersOf(route), ...members].map(describeMember)
  const successes = Object.entries(replies).map(
    ([status, { says, body }]) => `<dt>${status}<dd>${rich(says)}${body ? sample(body) : ''}`,
  )
  const refusals = codesOf(route).map((code) => `${failures[code].status} \`${code}\``)
  return `<article id="${operationId}">
<h3>${linkTo(route)}</h3>
<p><code>${method} ${path}</code>
<p>${rich(describe(route))}
<dl>${taken.join('')}</dl>${body ? sample(body.json) : ''}
<dl>${successes.join('')}</dl>
<p>Fails with ${rich(refusals.join(', '))}.
</article>`
}

function describeMember({ name, description, required, schema }: Parameter): string {
  const { examples, pattern, ...rules } = schema
  const about = rich(`${description} \`${JSON.stringify(rules)}\``)
  return `<dt>${name}${required ? ', required' : ''}<dd>${about}`
}
