/**
 * The mark: which stanza is being decrypted, in a file that outlives this process.
 *
 * The worker creates the file and passes its descriptor. If the sidecar hangs or dies, the worker reads from it which
 * stanza was being decrypted, so that stanza cannot come back for ever (docs/architecture.md, "A stanza that kills").
 * Each stanza costs one `pwrite` of 32 bytes, which takes microseconds.
 */
import { writeSync } from 'node:fs'

const HASH_BYTES = 32
const NOTHING = '0'.repeat(2 * HASH_BYTES)

/** @returns {number | null} the worker's file; null if it made none */
export const markDescriptor = (env = process.env) => (env.WA_MARK_FD ? Number(env.WA_MARK_FD) : null)

export class Mark {
  #present = NOTHING
  /** The log number at which the marked stanza is durable. */
  #number = Infinity
  #fd

  /** @param {number | null} fd null: nobody reads it @param {(error: Error) => void} [onFailure] it cannot be written */
  constructor(fd, onFailure = () => {}) {
    this.#fd = fd
    this.onFailure = onFailure
  }

  /** This stanza is decrypted from here on. @param {string} hash hex */
  set(hash) {
    this.#number = Infinity
    if (hash !== this.#present) this.#write(hash)
  }

  /** The stanza is in the log. Until it is durable, it may still kill. @param {string | null} hash @param {number} number */
  journaled(hash, number) {
    if (hash === this.#present) this.#number = number
  }

  /** Everything up to this number is durable. @param {number} number */
  durable(number) {
    if (number >= this.#number) this.clear()
  }

  clear() {
    this.#number = Infinity
    if (this.#present !== NOTHING) this.#write(NOTHING)
  }

  /** @param {string} hash */
  #write(hash) {
    this.#present = hash
    if (this.#fd === null) return
    try {
      writeSync(this.#fd, Buffer.from(hash, 'hex'), 0, HASH_BYTES, 0)
    } catch (error) {
      this.#fd = null
      this.onFailure(error)
    }
  }
}
