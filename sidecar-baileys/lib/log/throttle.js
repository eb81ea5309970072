/**
 * Back-pressure: when the log or Baileys' own queue is full, the socket is not read any further.
 *
 * A pause can starve itself: what is being worked on may await a query whose answer stands behind the pause. So a standstill
 * (nothing settled for a moment although something is under way) lets one breath of the socket through.
 */

/** Stanzas that Baileys holds in its own queue before the socket is paused: it has no bound of its own. */
export const STANZAS_IN_FLIGHT = 2_000
/** Decrypting one takes a millisecond or two; a stanza that takes this long awaits an answer. */
const STANDSTILL_MS = 100

/**
 * @typedef {object} Load
 * @property {number} bytes in the log
 * @property {number} waiting stanzas that have arrived and are not in the log
 * @property {number} openSections
 * @property {number} settled stanzas that have entered the log, ever
 *
 * @typedef {object} ThrottleHooks
 * @property {() => Load} load
 * @property {() => void} pause
 * @property {() => void} resume
 * @property {number} maxBytes
 */

export class Throttle {
  #paused = false
  /** @type {NodeJS.Timeout | undefined} */
  #look

  /** @param {ThrottleHooks} hooks */
  constructor(hooks) {
    this.hooks = hooks
  }

  get paused() { return this.#paused }

  /** Something has changed: pause, resume, or watch. */
  regulate() {
    const { bytes, waiting } = this.hooks.load()
    const { maxBytes } = this.hooks
    if (!this.#paused && (bytes > maxBytes || waiting > STANZAS_IN_FLIGHT)) this.#set(true)
    else if (this.#paused && bytes < maxBytes / 2 && waiting < STANZAS_IN_FLIGHT / 2) this.#set(false)
    if (this.#paused && !this.#look) this.#watch()
  }

  stop() {
    clearTimeout(this.#look)
  }

  #watch() {
    const { settled } = this.hooks.load()
    this.#look = setTimeout(() => {
      this.#look = undefined
      if (!this.#paused) return
      const now = this.hooks.load()
      // Over the bound in bytes only an open section is worth it: the rest waits for the database, not for WhatsApp.
      const awaits = now.openSections > 0 || (now.waiting > 0 && now.bytes <= this.hooks.maxBytes)
      if (awaits && now.settled === settled) this.#set(false)
      else this.#watch()
    }, STANDSTILL_MS)
    this.#look.unref()
  }

  /** @param {boolean} paused */
  #set(paused) {
    this.#paused = paused
    if (paused) this.hooks.pause()
    else this.hooks.resume()
  }
}
