/**
 * How often the account asks for what it could not read: a retry receipt to the sender, then a request to the owner's
 * phone.
 *
 * Whoever sends garbage makes the account send; 60 garbage messages made it send 180 stanzas. Nobody is asked for what
 * would not be stored anyway, and the others have a budget, each of them and all together.
 */

/** After so long the counts begin anew. */
const WINDOW_MS = 10 * 60 * 1_000
/** Messages of one author that are asked for in one window: a member whose keys we lost, in a busy group. */
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
  constructor(now = () => performance.now()) { // nobody sets that clock
    this.#now = now
  }

  /**
   * Whether this stanza may be asked for; counts it if so.
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
