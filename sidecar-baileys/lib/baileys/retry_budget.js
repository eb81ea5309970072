/**
 * Limits how often the account requests what it could not read: a retry receipt to the sender, then a request to the
 * owner's phone.
 *
 * A sender of garbage makes the account send: 60 garbage messages caused 180 stanzas. We request nothing that would not
 * be stored anyway; for the rest there is a budget per author and one for all.
 */

/** After this time the counts start over. */
const WINDOW_MS = 10 * 60 * 1_000
/** Messages of one author requested in one window: enough for a member whose keys we lost, in a busy group. */
export const OF_ONE_AUTHOR = 300
/** Messages of all authors. */
export const OF_ALL = 3_000

export class RetryBudget {
  #since = 0
  #all = 0
  /** @type {Map<string, number>} */
  #byAuthor = new Map()
  #now

  /** @param {() => number} [now] milliseconds */
  constructor(now = () => performance.now()) { // monotonic
    this.#now = now
  }

  /**
   * Whether this stanza may be requested; counts it if so.
   * @param {{author: string, stored: boolean}} stanza `stored`: of a chat that may be stored
   */
  allows({ author, stored }) {
    if (!stored) return false
    if (this.#now() - this.#since > WINDOW_MS) {
      this.#since = this.#now()
      this.#all = 0
      this.#byAuthor.clear()
    }
    const count = (this.#byAuthor.get(author) ?? 0) + 1
    if (count > OF_ONE_AUTHOR || this.#all >= OF_ALL) return false
    this.#byAuthor.set(author, count)
    this.#all += 1
    return true
  }
}
