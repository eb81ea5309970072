/**
 * What Baileys uses of `whatsapp-rust-bridge`, without its 2 MB of WebAssembly in memory. The handshake needs one
 * function, which Node has; the app state, from which the worker reads the account's own name once, gets the real
 * module.
 */
import { createHash, hkdfSync } from 'node:crypto'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const require = createRequire(import.meta.url)
const NOTHING = new Uint8Array()

/** @type {any} */
let loaded
const real = () => (loaded ??= require(fileURLToPath(import.meta.resolve('whatsapp-rust-bridge'))))

/** @param {Uint8Array} buffer @param {number} length bytes @param {{salt?: Uint8Array | null, info?: string | null}} options */
export const hkdf = (buffer, length, { salt, info }) =>
  new Uint8Array(hkdfSync('sha256', buffer, salt ?? NOTHING, info ?? '', length))

/** @param {Uint8Array} buffer */
export const md5 = (buffer) => new Uint8Array(createHash('md5').update(buffer).digest())

/** @param {Uint8Array} key */
export const expandAppStateKeys = (key) => real().expandAppStateKeys(key)

/** Created when Baileys loads, used when it reads the app state. */
export class LTHashAntiTampering {
  /** @type {any} */
  #hash

  get #real() {
    return (this.#hash ??= new (real().LTHashAntiTampering)())
  }

  /** @param {...any} given */
  subtractThenAdd(...given) {
    return this.#real.subtractThenAdd(...given)
  }
}
