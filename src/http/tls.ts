import { X509Certificate, createPrivateKey } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createSecureContext } from 'node:tls'

import { ExitError } from '../errors.ts'

/** The files of a certificate with its chain, and of its key. */
export type TlsFiles = { certFile: string; keyFile: string }

// Forward secrecy and authenticated ciphers alone.
const protocol = {
  minVersion: 'TLSv1.2',
  ciphers:
    'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:' +
    'ECDHE+AESGCM+AES128:ECDHE+AESGCM+AES256:ECDHE+CHACHA20',
  ecdhCurve: 'X25519:P-256:P-384',
  honorCipherOrder: true,
} as const

/** The settings for a pair that can be used now; throws an ExitError with the reason if not. */
export function readTlsSettings({ certFile, keyFile }: TlsFiles) {
  try {
    const cert = readFileSync(certFile, 'utf8')
    const key = readFileSync(keyFile, 'utf8')
    checkPair(cert, key)
    const settings = { ...protocol, cert, key }
    createSecureContext(settings)
    return settings
  } catch (error) {
    // Only the code of a file that cannot be read: the message has what was given for a path.
    const { code = '', message } = error as Error & { code?: string }
    const reason = /^E[A-Z]+$/.test(code) ? code : message
    throw new ExitError(`TLS_CERT_FILE and TLS_KEY_FILE cannot be used: ${reason}`, 2)
  }
}

function checkPair(cert: string, key: string) {
  if (!cert.includes('CERTIFICATE') || !key.includes('PRIVATE KEY'))
    throw new Error('the first has no certificate, or the second no key: they may be swapped')
  if (key.includes('ENCRYPTED')) throw new Error('the key wants a password')
  const certificate = new X509Certificate(cert)
  if (!certificate.checkPrivateKey(createPrivateKey(key)))
    throw new Error('the key is of another certificate')
  const { validFrom, validTo } = certificate
  if (Date.parse(validTo) < Date.now()) throw new Error(`it expired on ${validTo}`)
  if (Date.parse(validFrom) > Date.now()) throw new Error(`it is valid from ${validFrom}`)
}
