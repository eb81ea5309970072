/**
 * Passes keys to Node's HMAC and ciphers as KeyObjects instead of bytes.
 *
 * Node 24.19 takes 30 to 45 µs for a call of `createHmac` or `createCipheriv` with the key as bytes, where 24.15 took 5
 * to 9; with a KeyObject it is as fast as before (`node bench/crypto.js`). Baileys and libsignal pass bytes, many times
 * per message. Pinning the older Node would lose its security fixes.
 */
import crypto, { createSecretKey } from 'node:crypto'
import { syncBuiltinESMExports } from 'node:module'

const FUNCTIONS = /** @type {const} */ (['createHmac', 'createCipheriv', 'createDecipheriv'])

/** The second parameter of each is the key. Call this before Baileys loads: it copies the functions then. */
export function installKeyObjects() {
  for (const name of FUNCTIONS) {
    const original = /** @type {(...args: any[]) => any} */ (crypto[name])
    crypto[name] = /** @type {any} */ ((/** @type {string} */ algorithm, /** @type {any} */ key, /** @type {any[]} */ ...rest) =>
      original(algorithm, key instanceof Uint8Array ? createSecretKey(key) : key, ...rest))
  }
  syncBuiltinESMExports()
}
