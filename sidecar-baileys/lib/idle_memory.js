/**
 * Returns memory to the system when idle. V8 keeps the pages that a start or a burst needed: without this, an idle
 * account takes a quarter more (docs/scaling.md, "Memory of an account").
 */

/** Idle time before a collection: it takes a tenth of a second, for which nothing should wait. */
const QUIET_MS = 20_000
/**
 * The time between two collections. Each takes a tenth of a second of a core and drops compiled code, and anybody can
 * send a message each minute.
 */
const SPACING_MS = 600_000
/** Collect sooner only after a burst, which leaves some 50 MB; a few messages leave less than this. */
const GROWN_BYTES = 16_000_000
/** Also clears V8's caches of compiled code and its page pool. */
const EVERYTHING = { type: 'major', execution: 'sync', flavor: 'last-resort' }

export class IdleMemory {
  #seen = -1
  #since = 0
  #collected = false
  #collectedAt = -Infinity
  /** Memory after the last collection. */
  #left = 0

  /**
   * @param {((how: object) => void) | undefined} [collect] undefined without `--expose-gc`: then V8 is left alone
   * @param {() => number} [now] milliseconds
   * @param {() => number} [rss] bytes
   */
  constructor(collect = /** @type {any} */ (globalThis).gc, now = () => performance.now(), rss = process.memoryUsage.rss) {
    this.collect = collect
    this.now = now
    this.rss = rss
  }

  /**
   * Call it every few seconds. Collects once per idle period, and not again soon after another for little gain.
   * @param {number} stanzas that have come so far
   * @param {number} waiting stanzas and changes that are not durable yet
   */
  check(stanzas, waiting) {
    const now = this.now()
    if (stanzas !== this.#seen || waiting > 0) {
      this.#seen = stanzas
      this.#since = now
      this.#collected = false
    } else if (this.collect && !this.#collected && now - this.#since >= QUIET_MS && this.#worthwhile(now)) {
      this.collect(EVERYTHING)
      this.#collected = true
      this.#collectedAt = now
      this.#left = this.rss()
    }
  }

  /** @param {number} now */
  #worthwhile(now) {
    return now - this.#collectedAt >= SPACING_MS || this.rss() - this.#left >= GROWN_BYTES
  }
}
