/**
 * Finds a connection that is deaf from the start: WhatsApp has announced how many stanzas wait, and they do not come.
 *
 * Any arrival from the backlog is progress, whatever its tag; live stanzas are not. Only time in which we read counts:
 * while the socket is paused or the log waits for the database, WhatsApp's silence means nothing.
 */

/** So that a pause is noticed even if it ends before the patience does. */
const CHECKS_PER_PATIENCE = 20

/**
 * @typedef {object} PreviewHooks
 * @property {() => boolean} busy our own pause, or the database, holds the socket
 * @property {(announced: number, arrived: number) => void} stalled called once
 * @property {number} patienceMs without progress
 */

export class Preview {
  #announced = 0
  #arrived = 0
  #quietChecks = 0
  /** @type {NodeJS.Timeout | undefined} */
  #look

  /** @param {PreviewHooks} hooks */
  constructor(hooks) {
    this.hooks = hooks
  }

  /** @param {number} count stanzas that wait, says the server */
  announced(count) {
    this.#announced = count
    if (count > this.#arrived) this.#watch()
  }

  /** A stanza of the backlog has come. */
  arrived() {
    this.#arrived += 1
    this.#quietChecks = 0
    if (this.#arrived >= this.#announced) this.close()
  }

  /** Nothing more is expected. */
  close() {
    clearTimeout(this.#look)
    this.#look = undefined
  }

  #watch() {
    clearTimeout(this.#look)
    this.#look = setTimeout(() => {
      if (!this.hooks.busy()) this.#quietChecks += 1
      if (this.#quietChecks < CHECKS_PER_PATIENCE) return this.#watch()
      this.close()
      this.hooks.stalled(this.#announced, this.#arrived)
    }, this.hooks.patienceMs / CHECKS_PER_PATIENCE)
    this.#look.unref()
  }
}
