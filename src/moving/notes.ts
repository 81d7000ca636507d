import { hash } from 'node:crypto'

/**
 * Returns a function that notes texts, and returns whether a text is new. Of the SHA-256 of each 64
 * bits are kept, and 6 more by the table: of a million texts two are taken for the same in one of
 * two billion imports. Each takes 11 to 16 bytes.
 */
export function createNotes() {
  // Many small tables: while one grows, it is there twice.
  const tables = Array.from({ length: 64 }, createTable)
  return (text: string) => {
    const digest = hash('sha256', text, 'buffer')
    return tables[digest[8]! % tables.length]!(digest.readBigUInt64LE())
  }
}

function createTable() {
  let slots = new BigUint64Array(64)
  let count = 0

  function put(digest: bigint) {
    let slot = Number(digest % BigInt(slots.length))
    while (slots[slot] !== 0n && slots[slot] !== digest) slot = (slot + 1) % slots.length
    const isNew = slots[slot] === 0n
    slots[slot] = digest
    return isNew
  }

  return (digest: bigint) => {
    count++
    if (count > 0.75 * slots.length) {
      const old = slots
      slots = new BigUint64Array(Math.ceil(1.5 * old.length))
      for (const each of old) if (each !== 0n) put(each)
    }
    return put(digest)
  }
}
