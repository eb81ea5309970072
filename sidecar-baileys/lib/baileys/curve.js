/**
 * Strict, native signatures in place of libsignal's.
 *
 * libsignal 6.0.0 verifies in pure JavaScript, 12 to 17 ms a call, and returns false where Baileys expects a throw, so
 * stock Baileys never really checks the server's certificates or the phone's account signature (FACTS §12). One
 * function of one pinned dependency is replaced, before Baileys loads: Baileys copies the function when it does.
 */
import { createHash, createPublicKey, verify } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)

/** The only version whose source was read and whose answers were compared. */
export const EXPECTED_LIBSIGNAL = '6.0.0'
/** sha256 of the `src/curve.js` that was read: a patched release under the same number is noticed. */
export const EXPECTED_CURVE_SHA256 = 'a45c682103f1ab047a24497db2175dec5605495d8c0f4c11354b347d31950f6a'

const P = 2n ** 255n - 19n
const SPKI_ED25519 = Buffer.from('302a300506032b6570032100', 'hex')
/** Edwards keys are remembered: the inversion costs as much as the verification. */
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

/** A signature that does not fit; Baileys and libsignal expect a throw. */
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
    // libsignal's own callers switch the check off for the first message of a session; that stays as it is.
    if (isInit) return true
    if (!message || !check(key, message, signature)) throw new SignatureError()
    return true
  }

/**
 * Replace libsignal's `verifySignature`. Call this before Baileys is imported.
 * @returns {{native: boolean, reason: string}} native false = the dependency is not the one that was read: its own
 *   function is used, strictly
 */
export function installStrictSignatures() {
  const curve = require('libsignal/src/curve.js')
  const version = require('libsignal/package.json').version
  const source = createHash('sha256').update(readFileSync(require.resolve('libsignal/src/curve.js'))).digest('hex')
  const reason =
    version !== EXPECTED_LIBSIGNAL ? `libsignal is ${version}, not ${EXPECTED_LIBSIGNAL}`
    : source !== EXPECTED_CURVE_SHA256 ? `libsignal ${version} has another src/curve.js than the one that was read`
    : ''
  curve.verifySignature = makeStrict(reason === '' ? verifyNative : curve.verifySignature)
  return { native: reason === '', reason }
}
