/**
 * Back-pressure: stop reading the socket while the log or the queue of stanzas is full.
 *
 * A pause can block itself: a stanza in progress may await a query whose answer has not been read. So when nothing
 * settles for a moment although something is in progress, the socket is read once more.
 */

/** Stanzas in progress at which reading pauses: Baileys' own queue has no bound. More than several backlog windows. */
export const STANZAS_IN_FLIGHT = 800
/** Decrypting takes a millisecond or two. A stanza that takes this long awaits an answer. */
const STANDSTILL_MS = 100

/**
 * @typedef {object} Load
 * @property {number} bytes in the log
 * @property {number} waiting stanzas that have arrived and are not in the log
 * @property {number} waitingBytes their approximate size in the log
 * @property {number} openSections
 * @property {number} settled stanzas that have entered the log since the start
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

  /** The socket is currently not read. */
  get paused() { return this.#paused }

  /** The load has changed: pause, resume, or watch for a standstill. */
  regulate() {
    const { bytes, waitingBytes, waiting } = this.hooks.load()
    const { maxBytes } = this.hooks
    // A busy machine reads faster than it decrypts: what waits will be in the log soon.
    const expected = bytes + waitingBytes
    if (!this.#paused && (expected > maxBytes || waiting > STANZAS_IN_FLIGHT)) this.#set(true)
    else if (this.#paused && expected < maxBytes / 2 && waiting < STANZAS_IN_FLIGHT / 2) this.#set(false)
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
      // With the log full, only an open section counts: everything else waits for the database, not for WhatsApp.
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
