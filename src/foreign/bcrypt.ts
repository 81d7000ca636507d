// bcrypt, which Node's crypto does not have, as Provos and Mazières describe it (USENIX, 1999). It
// is built on Schneier's Blowfish (1993).

/** Blowfish's state: 18 subkeys, then four S-boxes of 256 words. */
type State = Int32Array

const subkeys = 18
const stateWords = subkeys + 4 * 256
/** bcrypt uses so many bytes of a password and no more. */
const keyBytes = 4 * subkeys
/** The text that is encrypted. */
const magic = 'OrpheanBeholderScryDoubt'
/** Of 24 bytes encrypted, bcrypt keeps these. */
const hashBytes = 23

const alphabet = './ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'
const standardAlphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'

/** Decodes base64 in the order of characters that bcrypt has. */
export function bcryptBase64(text: string): Buffer {
  const standard = [...text].map((each) => standardAlphabet[alphabet.indexOf(each)])
  return Buffer.from(standard.join(''), 'base64')
}

/**
 * The 23 bytes of bcrypt for a password's bytes, of which the first 72 up to a NUL count, as in C;
 * `salt` has 16 bytes. Each step of `cost` doubles the time.
 */
export function bcrypt(password: Buffer, salt: Buffer, cost: number): Buffer {
  const key = readWords(cycle(beforeNul(password), keyBytes))
  const saltWords = readWords(salt)
  const saltKey = readWords(cycle(salt, keyBytes))
  const nothing = new Int32Array(saltWords.length)

  initialState ??= piFraction()
  const state = initialState.slice()
  expand(state, key, saltWords)
  for (let round = 0; round < 2 ** cost; round++) {
    expand(state, key, nothing)
    expand(state, saltKey, nothing)
  }

  const text = readWords(Buffer.from(magic))
  for (let at = 0; at < text.length; at += 2) {
    for (let time = 0; time < 64; time++) encrypt(state, text, at)
  }
  return writeWords(text).subarray(0, hashBytes)
}

/** The password as C has it: up to its first NUL, and with that. */
function beforeNul(password: Buffer): Buffer {
  const end = password.indexOf(0)
  return Buffer.concat([end === -1 ? password : password.subarray(0, end), Buffer.alloc(1)])
}

/** The bytes again and again, `length` of them. */
const cycle = (bytes: Buffer, length: number) => Buffer.alloc(length, bytes)

function readWords(bytes: Buffer): Int32Array {
  const words = new Int32Array(bytes.length / 4)
  for (let at = 0; at < words.length; at++) words[at] = bytes.readInt32BE(4 * at)
  return words
}

function writeWords(words: Int32Array): Buffer {
  const bytes = Buffer.alloc(4 * words.length)
  for (const [at, word] of words.entries()) bytes.writeInt32BE(word, 4 * at)
  return bytes
}

/** Mixes a key into the subkeys, then replaces the state by what the state encrypts. */
function expand(state: State, key: Int32Array, salt: Int32Array) {
  for (let at = 0; at < subkeys; at++) state[at]! ^= key[at]!
  const block = new Int32Array(2)
  for (let at = 0; at < stateWords; at += 2) {
    block[0]! ^= salt[at % salt.length]!
    block[1]! ^= salt[(at + 1) % salt.length]!
    encrypt(state, block, 0)
    state[at] = block[0]!
    state[at + 1] = block[1]!
  }
}

/** Encrypts two words in place: sixteen rounds, the halves in turns. */
function encrypt(state: State, words: Int32Array, at: number) {
  let left = words[at]!
  let right = words[at + 1]!
  for (let round = 0; round < 16; round += 2) {
    left ^= state[round]!
    right ^= mix(state, left) ^ state[round + 1]!
    left ^= mix(state, right)
  }
  words[at] = right ^ state[17]!
  words[at + 1] = left ^ state[16]!
}

/** Blowfish's F: each byte of the word chooses a word of its S-box. */
function mix(state: State, word: number): number {
  const first = state[subkeys + (word >>> 24)]!
  const second = state[subkeys + 256 + ((word >>> 16) & 255)]!
  const third = state[subkeys + 512 + ((word >>> 8) & 255)]!
  const fourth = state[subkeys + 768 + (word & 255)]!
  return (((first + second) ^ third) + fourth) | 0
}

/** The state at first; computed once a thread, which takes some 50 ms. */
let initialState: State | null = null

/** The fraction of pi: Machin's 16 arctan(1/5) - 4 arctan(1/239), in fixed-point numbers. */
function piFraction(): State {
  const bits = 32n * BigInt(stateWords)
  // What is cut off in some 15,000 divisions is lost in these.
  const spare = 64n
  const one = 1n << (bits + spare)
  function arctanOfInverse(x: bigint): bigint {
    let power = one / x
    let sum = power
    for (let n = 3n; power !== 0n; n += 2n) {
      power /= -x * x
      sum += power / n
    }
    return sum
  }
  const pi = 16n * arctanOfInverse(5n) - 4n * arctanOfInverse(239n)
  const fraction = (pi >> spare) & ((1n << bits) - 1n)
  return readWords(Buffer.from(fraction.toString(16).padStart(8 * stateWords, '0'), 'hex'))
}
