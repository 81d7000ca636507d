import { digits, documented, uuidSchema, type JsonSchema } from '../schema.ts'

/** The members of a page's query. */
export const pageQuery = {
  limit: digits(1, 1000, { default: 100, description: 'The size of a page' }),
  after: documented(uuidSchema, {
    description: 'The id of the last row of the page before, as in `Link`',
  }),
}

/** What the document says of a page of such items. */
export const pageOf = (says: string, items: JsonSchema) => ({
  says,
  body: { type: 'array', maxItems: 1000, items },
  headers: ['Link'],
})

/**
 * Answers one page, and names the next in `Link` if there is more. The cursor is the id of the last
 * row, so every page costs what the first does; one row more is read, to see whether there is a
 * next page.
 */
export async function paged<Q extends { limit?: number }, Row extends { id: string }>(
  query: Q,
  read: (query: Q & { limit: number }) => Promise<Row[]>,
  show: (row: Row) => unknown = (row) => row,
) {
  const limit = query.limit ?? 100
  const rows = await read({ ...query, limit: limit + 1 })
  const page = rows.slice(0, limit)
  const body = page.map(show)
  if (rows.length <= limit) return { body }
  const next = new URLSearchParams({ ...query, limit: String(limit), after: page.at(-1)!.id })
  // Relative, since a gateway may have stripped a prefix from the path that the client asked for.
  return { body, headers: { Link: `<?${next}>; rel="next"` } }
}
