/**
 * A sender's key for one group: the chain, its distribution message, and messages that use EVERY iteration
 * (Baileys' own encryption skips each second one, docs/whatsapp.md, "The server's side").
 */
import { createCipheriv, createHmac, hkdfSync, randomBytes, randomInt } from 'node:crypto'
import { proto } from 'baileys'
import { advance } from './attacker.js'
import { makeSigningKey, withTypePrefix } from './curve.js'

const NO_PADDING = 0xff // a last byte that is no padding length
const VERSION = 0x33 // this version and the oldest one supported: both 3

/** @param {Uint8Array} key @param {number} constant */
const derive = (key, constant) => createHmac('sha256', key).update(Buffer.from([constant])).digest()

/** Whole blocks that no reader takes for a padded message. @param {number} length - about so many bytes */
function unreadable(length) {
  const bytes = randomBytes(length + 16 - (length % 16))
  return bytes.fill(NO_PADDING, bytes.length - 1)
}

export class SenderKey {
  #id = randomInt(1, 0x7fffffff)
  #iteration = 0
  #chainKey = randomBytes(32)
  #signing = makeSigningKey()
  /** which linked devices were sent this key, by their registration numbers @type {Set<number>} */
  sharedWith = new Set()

  /** @returns {Uint8Array} the axolotl part of a SenderKeyDistributionMessage: the key from here on */
  distribution() {
    const body = proto.SenderKeyDistributionMessage.encode({
      id: this.#id, iteration: this.#iteration, chainKey: this.#chainKey, signingKey: withTypePrefix(this.#signing.public)
    }).finish()
    return Buffer.concat([Buffer.from([VERSION]), body])
  }

  /** The next message has a number that is so much higher. @param {number} steps */
  skip(steps) {
    this.#chainKey = advance(this.#chainKey, steps)
    this.#iteration += steps
  }

  /**
   * Encrypts with the next iteration.
   * @param {Uint8Array} padded - the padded message
   * @param {{corrupt?: boolean, tamper?: boolean}} [damage] - cannot be decrypted, but well signed and of a good length · falsely signed
   */
  encrypt(padded, damage = {}) {
    const seed = derive(this.#chainKey, 1)
    const keys = Buffer.from(hkdfSync('sha256', seed, Buffer.alloc(32), 'WhisperGroup', 64))
    const cipher = createCipheriv('aes-256-cbc', keys.subarray(16, 48), keys.subarray(0, 16))
    if (damage.corrupt) cipher.setAutoPadding(false)
    const plain = damage.corrupt ? unreadable(padded.length) : padded
    const ciphertext = Buffer.concat([cipher.update(plain), cipher.final()])
    const body = proto.SenderKeyMessage.encode({ id: this.#id, iteration: this.#iteration, ciphertext }).finish()
    const signed = Buffer.concat([Buffer.from([VERSION]), body])
    const signature = this.#signing.sign(signed)
    if (damage.tamper) signature[5] = (signature[5] ?? 0) ^ 1
    this.#chainKey = derive(this.#chainKey, 2)
    this.#iteration++
    return Buffer.concat([signed, signature])
  }
}
