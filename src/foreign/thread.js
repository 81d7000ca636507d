// What the hasher's threads import. It is JavaScript, because they start without what runs
// TypeScript on old Nodes.
import { load } from '../../bin/load.js'

/** See hashes.ts. */
export const { verifyForeign } = await load('foreign/hashes.ts')
