/**
 * Strict, native signatures in place of libsignal's (docs/whatsapp.md, "Signatures").
 *
 * libsignal 6.0.0 verifies in pure JavaScript, 12 to 17 ms a call. It returns false where Baileys expects a throw, so
 * stock Baileys never checks the server's certificates or the phone's account signature. We replace this one function
 * before Baileys loads, because Baileys copies it then.
 */
import { createHash, createPublicKey, verify } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { LIBSIGNAL_CURVE_SHA256, LIBSIGNAL_VERSION } from './internals.js'

const require = createRequire(import.meta.url)

const P = 2n ** 255n - 19n
const SPKI_ED25519 = Buffer.from('302a300506032b6570032100', 'hex')
/** Edwards keys to keep: computing one costs as much as a verification. */
const CACHED_KEYS = 5_000
/** @type {Map<string, import('node:crypto').KeyObject>} */
const cache = new Map()

/**
 * @param {bigint} base
 * @param {bigint} exponent
 */
function power(base, exponent) {
  let result = 1n
  for (let b = base % P, e = exponent; e > 0n; e >>= 1n, b = (b * b) % P) if (e & 1n) result = (result * b) % P
  return result
}

/** @param {Uint8Array} bytes little endian */
const toBigInt = (bytes) => BigInt('0x' + Buffer.from(bytes).reverse().toString('hex'))

/**
 * The Edwards public key of a Montgomery one: y = (u − 1) / (u + 1), the sign from the signature (XEdDSA).
 * @param {Buffer} montgomery 32 bytes
 * @param {number} sign 0 or 128
 */
function edwardsKey(montgomery, sign) {
  const name = `${montgomery.toString('base64')}${sign}`
  const known = cache.get(name)
  if (known) return known
  const u = toBigInt(montgomery) & ((1n << 255n) - 1n)
  const y = ((u - 1n + P) * power(u + 1n, P - 2n)) % P
  const encoded = Buffer.from(y.toString(16).padStart(64, '0'), 'hex').reverse()
  encoded[31] |= sign
  const key = createPublicKey({ key: Buffer.concat([SPKI_ED25519, encoded]), format: 'der', type: 'spki' })
  if (cache.size >= CACHED_KEYS) cache.delete(cache.keys().next().value ?? '')
  cache.set(name, key)
  return key
}

/**
 * Verify an XEdDSA signature with Node's own Ed25519.
 * @param {Uint8Array} publicKey 33 bytes with the type byte 5, or 32 without
 * @param {Uint8Array} message
 * @param {Uint8Array} signature 64 bytes; the top bit of the last one is the sign of the Edwards point
 * @returns {boolean}
 */
export function verifyNative(publicKey, message, signature) {
  if (signature?.length !== 64) return false
  const key = Buffer.from(publicKey.length === 33 ? publicKey.subarray(1) : publicKey)
  if (key.length !== 32 || (publicKey.length === 33 && publicKey[0] !== 5)) return false
  const plain = Buffer.from(signature)
  const sign = plain[63] & 0x80
  plain[63] &= 0x7f
  try {
    return verify(null, message, edwardsKey(key, sign), plain)
  } catch {
    return false // not a point of the curve
  }
}

/** The signature is not of this message and key. Baileys and libsignal expect a throw. */
export class SignatureError extends Error {
  constructor() {
    super('Invalid signature!')
  }
}

/**
 * Make a strict function of either verifier: it returns true or throws, never false.
 * @param {(key: Uint8Array, message: Uint8Array, signature: Uint8Array) => boolean} check
 */
export const makeStrict = (check) =>
  /**
   * @param {Uint8Array} key
   * @param {Uint8Array} message
   * @param {Uint8Array} signature
   * @param {boolean} [isInit]
   */
  (key, message, signature, isInit) => {
    // libsignal's own callers skip the check for the first message of a session.
    if (isInit) return true
    if (!message || !check(key, message, signature)) throw new SignatureError()
    return true
  }

/**
 * Replace libsignal's `verifySignature`. Call this before Baileys is imported.
 * @returns {{native: boolean, reason: string}} not native, with the reason: nobody has read this libsignal, so its own
 *   function is used, strictly
 */
export function installStrictSignatures() {
  const curve = require('libsignal/src/curve.js')
  const version = require('libsignal/package.json').version
  const source = createHash('sha256').update(readFileSync(require.resolve('libsignal/src/curve.js'))).digest('hex')
  const reason =
    version !== LIBSIGNAL_VERSION ? `libsignal is ${version}, not ${LIBSIGNAL_VERSION}`
    : source !== LIBSIGNAL_CURVE_SHA256 ? `src/curve.js of libsignal ${version} has changed`
    : ''
  curve.verifySignature = makeStrict(reason === '' ? verifyNative : curve.verifySignature)
  return { native: reason === '', reason }
}
