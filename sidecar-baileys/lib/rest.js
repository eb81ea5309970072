/**
 * Gives memory back when nothing happens. V8 keeps the pages that a start or a burst has needed: without this, an account
 * at rest takes a quarter more (docs/scaling.md, "Memory of an account").
 */

/** No message for so long: the collection takes a tenth of a second, for which nothing should wait. */
const QUIET_MS = 20_000
/** Clears V8's caches of compiled code as well, and its pool of pages. */
const EVERYTHING = { type: 'major', execution: 'sync', flavor: 'last-resort' }

export class Rest {
  #seen = -1
  #since = 0
  #collected = false

  /**
   * @param {((how: object) => void) | undefined} [collect] undefined without `--expose-gc`: then V8 is left alone
   * @param {() => number} [now] milliseconds
   */
  constructor(collect = /** @type {any} */ (globalThis).gc, now = () => performance.now()) {
    this.collect = collect
    this.now = now
  }

  /** To be called every few seconds. Collects once in each quiet time. @param {number} stanzas that have come so far */
  look(stanzas) {
    const now = this.now()
    if (stanzas !== this.#seen) {
      this.#seen = stanzas
      this.#since = now
      this.#collected = false
    } else if (!this.#collected && now - this.#since >= QUIET_MS) {
      this.#collected = true
      this.collect?.(EVERYTHING)
    }
  }
}
