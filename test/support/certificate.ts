// Certificates for tests, in plain DER: of any validity and key, made on any machine.
import { createPublicKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto'

const day = 86_400_000

export interface CertificateOptions {
  /** Common name; the certificate is for `localhost` and 127.0.0.1 whatever it is. */
  name?: string
  /** Days from now. */
  from?: number
  to?: number
  key?: KeyObject
}

/** A key and a certificate for it that it signed itself, both in PEM. */
export function createCertificate(options: CertificateOptions = {}): { cert: string; key: string } {
  const { name = 'localhost', from = -1, to = 90 } = options
  const key = options.key ?? generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
  const algorithm =
    key.asymmetricKeyType === 'rsa'
      ? sequence(oid('2a864886f70d01010b'), der(0x05))
      : sequence(oid('2a8648ce3d040302'))
  const named = sequence(der(0x31, sequence(oid('550403'), der(0x0c, Buffer.from(name)))))
  const content = sequence(
    der(0xa0, integer(2)),
    integer(Date.now()),
    algorithm,
    named,
    sequence(time(from), time(to)),
    named,
    createPublicKey(key).export({ type: 'spki', format: 'der' }),
    der(
      0xa3,
      sequence(
        extension('551d13', sequence()),
        extension(
          '551d11',
          sequence(der(0x82, Buffer.from('localhost')), der(0x87, Buffer.from([127, 0, 0, 1]))),
        ),
        extension('551d25', sequence(oid('2b06010505070301'))),
      ),
    ),
  )
  const signature = der(0x03, Buffer.from([0]), sign('sha256', content, key))
  const lines = sequence(content, algorithm, signature)
    .toString('base64')
    .match(/.{1,64}/g)!
  return {
    cert: ['-----BEGIN CERTIFICATE-----', ...lines, '-----END CERTIFICATE-----', ''].join('\n'),
    key: key.export({ type: 'pkcs8', format: 'pem' }) as string,
  }
}

function der(tag: number, ...parts: Buffer[]): Buffer {
  const body = Buffer.concat(parts)
  const length = body.length < 0x80 ? [body.length] : [0x82, body.length >> 8, body.length & 0xff]
  return Buffer.concat([Buffer.from([tag, ...length]), body])
}

const sequence = (...parts: Buffer[]) => der(0x30, ...parts)
const oid = (hex: string) => der(0x06, Buffer.from(hex, 'hex'))
const extension = (id: string, value: Buffer) => sequence(oid(id), der(0x04, value))

function integer(value: number): Buffer {
  const hex = value.toString(16)
  return der(
    0x02,
    Buffer.from(`00${hex.length % 2 ? '0' : ''}${hex}`.replace(/^00(?=[0-7])/, ''), 'hex'),
  )
}

/** UTCTime: two digits of the year. */
const time = (days: number) =>
  der(
    0x17,
    Buffer.from(
      new Date(Date.now() + days * day)
        .toISOString()
        .slice(2)
        .replace(/[-:T]|\.\d+/g, ''),
    ),
  )
