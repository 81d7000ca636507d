import assert from 'node:assert/strict'

import { version } from '../../src/app.ts'
import { openApi } from '../../src/operation/openapi.ts'
import { allRoutes } from '../../src/routes.ts'
import type { Deps } from '../../src/routes.ts'

const document: any = openApi(allRoutes({ signup: 'open' } as Deps), { basePath: '/v1', version })

/** Fails unless the OpenAPI document has this status, and this code, for the operation. */
export function checkDocumented(
  method: string,
  path: string,
  status: number,
  code: string | undefined,
) {
  const bare = path.replace(/\?.*$/, '')
  const countIds = (path: string) => path.replace('{path}', '').split('{').length
  const known = Object.keys(document.paths)
    .sort((a, b) => countIds(a) - countIds(b))
    .find((each) =>
      new RegExp(`^${each.replace(/\{path\}/g, '.+').replace(/\{\w+\}/g, '[^/]+')}$`).test(bare),
    )
  const operation = document.paths[known ?? '']?.[method === 'HEAD' ? 'get' : method.toLowerCase()]
  if (!operation) return
  const response = operation.responses[status]
  assert.ok(response, `${method} ${known}: ${status} is not documented`)
  if (code === undefined) return
  const codes = response.content['application/json'].schema.properties.code.enum
  assert.ok(codes.includes(code), `${method} ${known}: ${status} ${code} is not documented`)
}
