import type { IncomingHttpHeaders } from 'node:http'

import { AppError, type Code } from '../errors.ts'
import type { JsonSchema, Schema } from '../schema.ts'
import type { Client } from './address.ts'

/** Who calls: the key that was presented, and its user as the database has it now. */
export interface Caller {
  keyId: string
  keyKind: 'api' | 'session'
  scope: 'all' | 'read' | 'auth' | 'metrics'
  /** The key's own list; null: the permissions of its user count. */
  keyPermissions: string[] | null
  factors: number
  /** How long ago a password was last proved for the key; null: never. */
  provedSeconds: number | null
  /** When that was, in whole seconds since 1970. */
  provedAt: number | null
  /** When the key ends, in seconds since 1970; null: never. */
  endsAt: number | null
  userId: string
  email: string
  emailVerified: boolean
  /** What counts. For a key with its own list: `user`, and the permissions on both lists. */
  role: 'user' | 'admin'
  /** Of a key with a list of permissions: whether its user is an admin. */
  isAdmins?: boolean
  permissions: string[]
  /** Whether the user has a second factor. */
  secondFactor: boolean
  /** Null: empty. */
  metadata: Record<string, unknown> | null
  version: number
  createdAt: string
  updatedAt: string
}

/**
 * Who may call. `anyone`: a key is not looked at; `optional`: one that is sent must be good; `key`:
 * any good key; `self`: the user whose id is in the path, or an admin.
 */
export type Access = 'anyone' | 'optional' | 'key' | 'self' | 'admin'
type CallerOf<A extends Access> = A extends 'anyone'
  ? null
  : A extends 'optional'
    ? Caller | null
    : Caller

/** Where a request comes from. */
export type Origin = Client & { requestId: string }

export interface Reply {
  /** By default that of the route's success. */
  status?: number
  /** The payload of the envelope; none: no body at all. */
  body?: unknown
  /** Sent as it is, instead of an envelope. */
  raw?: { type: string; text: string }
  headers?: Record<string, string>
}

type Params<P extends string> = P extends `${string}{${infer Name}}${infer Rest}`
  ? { [K in Name]: string } & Params<Rest>
  : unknown

export interface Call<A extends Access, P extends string, Q, B> {
  caller: CallerOf<A>
  origin: Origin
  headers: IncomingHttpHeaders
  params: Params<P>
  query: Q
  /** The raw query string, for forward-auth, which ignores parameters that it does not know. */
  search: string
  body: B
}

/** What the document says of a success. */
export interface ReplySpec {
  says: string
  /** Of the payload. */
  body?: JsonSchema
  /** The media type of a body without an envelope. */
  raw?: string
  /** Headers besides those that every answer has. */
  headers?: string[]
  /** Parameters of other paths that this payload has: the name there and the member here. */
  creates?: Record<string, string>
}

/** The groups of the document. */
export type Tag = 'users' | 'keys' | 'sessions' | 'tokens' | 'auth' | 'audit' | 'operation'

type Method = 'GET' | 'POST' | 'PATCH' | 'DELETE' | 'ANY'

interface Spec<A extends Access, P extends string, Q, B> {
  /** A verb and what it acts on: the name of the call in generated clients. */
  operationId: string
  tag: Tag
  access: A
  /** A narrower scope than `all` that opens this route, besides `read` for GET. */
  scope?: 'auth' | 'metrics'
  /** Changes who holds an account: a session must come from a log-in a short while ago. */
  fresh?: true
  /** Open, of oneself, to keys that lack the second factor which REQUIRE_FACTOR asks for. */
  enrols?: true
  /** Changes only keys of a user, which a key with its own list of permissions may, too. */
  changesKeys?: true
  summary: string
  description?: string
  query?: Schema<Q>
  /** Parameters of a query that the handler reads from `search` itself. */
  looseQuery?: Record<string, JsonSchema>
  body?: Schema<B>
  /** The schema of a body where it depends on who calls; `body` is what the document shows. */
  bodyFor?(caller: CallerOf<A>): Schema<B>
  /** A missing body counts as `{}`. */
  bodyOptional?: boolean
  /** The sentence of `invalid_body`, if it is not the usual one. */
  bodySentence?: string
  replies: Record<number, ReplySpec>
  /** What can fail besides what access, parsing and throttling bring. */
  fails?: readonly Code[]
  throttled?: false
  /** Successes are logged at level `debug` only. */
  quiet?: true
  /** The path is not below the base path. */
  atRoot?: true
  /** Not a part of the API that the document describes. */
  undocumented?: true
  handle(call: Call<A, P, Q, B>): Promise<Reply> | Reply
}

/**
 * A route as the pipeline sees it; its types are checked where it is made. The only `any` in the
 * code: handlers take narrower calls than the pipeline knows of.
 */
export type Route = Spec<Access, string, Record<string, unknown>, any> & Derived

interface Derived {
  method: Method
  path: string
  /** Of a success: the first of its replies. */
  status: number
}

/**
 * Makes a route of a method and a path; its handler gets path, query and body parsed and typed.
 * Members of the path in braces are UUIDs; a trailing `/*` stands for anything below.
 */
export function route<
  const A extends Access,
  const P extends string,
  Q = Record<never, never>,
  B = undefined,
>(target: `${Method} ${P}`, spec: Spec<A, P, Q, B>): Route {
  const [method, path] = target.split(' ')
  const [status] = Object.keys(spec.replies).map(Number)
  return { method, path, status, ...spec } as unknown as Route
}

/** What is not switched on; it would else be the path of a user with a malformed id. */
export const absent = (path: string) =>
  route(`ANY ${path}`, {
    operationId: 'none',
    tag: 'operation',
    access: 'anyone',
    undocumented: true,
    summary: 'None',
    replies: {},
    handle() {
      throw new AppError('not_found')
    },
  })
