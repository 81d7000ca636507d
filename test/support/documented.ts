import assert from 'node:assert/strict'

import { version } from '../../src/app.ts'
import { openApi } from '../../src/operation/openapi.ts'
import { allRoutes, type Deps } from '../../src/routes.ts'

const routes = allRoutes({
  signup: 'open',
  hasWebhook: true,
  hasAdminPage: true,
  signer: {},
} as Deps)
const document: any = openApi(routes, { basePath: '/v1', version })

/** Where a reference of the document leads; a value that is none is itself. */
export function resolve(value: any, root = document): any {
  if (typeof value?.$ref !== 'string') return value
  let found: any = root
  for (const name of value.$ref.split('/').slice(1)) found = found?.[name]
  return found
}

/** Fails unless the OpenAPI document has this status, and this code, for the operation. */
export function checkDocumented(
  method: string,
  path: string,
  { status, code }: { status: number; code?: string | undefined },
) {
  const known = findTemplate(path.replace(/\?.*$/, ''))
  const operation = document.paths[known]?.[documentedMethod(method, known)]
  if (!operation) return
  const response = resolve(operation.responses[status])
  assert.ok(response, `${method} ${known}: ${status} is not documented`)
  if (code === undefined) return
  const codes: string[] = response['x-codes']
  assert.ok(codes?.includes(code), `${method} ${known}: ${status} ${code} is not documented`)
}

/** Forward-auth is documented once, for the path and the method that gateways use. */
const forwardAuth = '/users/auth'

function findTemplate(path: string): string {
  if (path === forwardAuth || path.startsWith(`${forwardAuth}/`)) return forwardAuth
  const countIds = (template: string) => template.split('{').length
  const templates = Object.keys(document.paths).sort((a, b) => countIds(a) - countIds(b))
  const fits = (template: string) =>
    new RegExp(`^${template.replace(/\{\w+\}/g, '[^/]+')}$`).test(path)
  return templates.find(fits) ?? ''
}

function documentedMethod(method: string, template: string): string {
  return method === 'HEAD' || template === forwardAuth ? 'get' : method.toLowerCase()
}
