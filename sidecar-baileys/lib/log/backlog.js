/**
 * The offline backlog: requests it window by window, and says when live stanzas no longer have to wait for it.
 *
 * WhatsApp may send a backlog in windows of about 100, the next one only on request, and live traffic only after its
 * end (docs/whatsapp.md, "The real server in 2026"). It may never announce the end. So the wait ends when the backlog
 * has made no progress for a while; live arrivals are not progress and do not prolong it.
 */

/** Stanzas per request. Baileys itself makes the first request, when it reads the preview. */
const WINDOW = 100
/** The next window is requested when half of this one is here, so that the link is never idle. */
const ASK_AT = 50
/** Everything has settled and no end was announced: ask again after this long, then twice as long, and so on. */
const ASK_AGAIN_MS = 1_000
const ASK_AGAIN_MAX_MS = 300_000

/**
 * @typedef {object} BacklogHooks
 * @property {() => void} ask request the next window
 * @property {() => boolean} busy the log is not durable yet, so WhatsApp's silence means nothing
 * @property {() => void} released live stanzas no longer have to wait
 * @property {number} holdMs how long live stanzas wait while the backlog makes no progress
 */

export class Backlog {
  /** The server has announced the end. */
  #done = false
  #closed = false
  /** We have waited long enough. */
  #released = false
  #arrived = 0
  #unsettled = 0
  #asked = 0
  #againMs = ASK_AGAIN_MS
  /** @type {NodeJS.Timeout | undefined} */
  #hold
  /** @type {NodeJS.Timeout | undefined} */
  #again

  /** @param {BacklogHooks} hooks */
  constructor(hooks) {
    this.hooks = hooks
  }

  /** Live stanzas have to wait. */
  get holding() { return (!this.#done && !this.#released) || this.#unsettled > 0 }

  /** A stanza of the backlog has arrived. */
  arrived() {
    this.#arrived += 1
    this.#unsettled += 1
    if (!this.#done && this.#arrived >= this.#asked * WINDOW + ASK_AT) this.#ask()
    this.#progress()
  }

  /** One of them is in the log, or was dropped after its receipt. */
  settled() {
    // After a release the rest is not counted.
    if (this.#unsettled > 0) this.#unsettled -= 1
    this.#progress()
  }

  /** A live stanza waits: from now on the wait is limited. */
  liveWaits() {
    if (this.holding && !this.#hold) this.#startHold()
  }

  /** The server says that it has sent everything. */
  complete() {
    this.#done = true
    clearTimeout(this.#again)
  }

  close() {
    this.#done = this.#closed = true
    clearTimeout(this.#hold)
    clearTimeout(this.#again)
  }

  #ask() {
    this.#asked += 1
    this.hooks.ask()
  }

  #progress() {
    clearTimeout(this.#hold)
    this.#hold = undefined
    if (this.#closed) return // a late settle must not keep the connection alive in a timer
    this.#againMs = ASK_AGAIN_MS
    if (this.holding) this.#startHold()
    this.#watchForMore()
  }

  #startHold() {
    this.#hold = setTimeout(() => {
      this.#hold = undefined
      if (this.hooks.busy()) return this.#startHold()
      this.#released = true
      this.#unsettled = 0
      this.hooks.released()
    }, this.hooks.holdMs)
    this.#hold.unref()
  }

  /** Everything that came has settled, and no end was announced: the next window may wait for a request. */
  #watchForMore() {
    clearTimeout(this.#again)
    if (this.#done || this.#unsettled > 0) return
    this.#again = setTimeout(() => {
      if (!this.hooks.busy()) {
        this.hooks.ask()
        this.#againMs = Math.min(2 * this.#againMs, ASK_AGAIN_MAX_MS)
      }
      this.#watchForMore()
    }, this.#againMs)
    this.#again.unref()
  }
}
