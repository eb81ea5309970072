/**
 * Reads keys, a few calls at a time: requests that arrive during a call go together, one call for each type.
 *
 * The first messages of 150 newcomers need five reads each, of one key each. Against a database 250 ms away, these made
 * a queue of half a minute, which looked like a database that does not answer.
 */

/** Calls in flight at once. Other requests gather meanwhile. */
const AT_ONCE = 2
/** Most keys in a call: a sender key may have 270 kB, and a line of the wire holds 32 MiB. */
export const KEYS_MAX = 50

/**
 * @typedef {object} Ask one call to be
 * @property {string} type
 * @property {Set<string>} ids
 * @property {Promise<Record<string, string>>} answer
 * @property {(answer: Promise<Record<string, string>>) => void} settle
 */

export class KeyReads {
  /** @type {Ask[]} */
  #waiting = []
  #running = 0
  #read

  /** @param {(type: string, ids: string[]) => Promise<Record<string, string>>} read */
  constructor(read) {
    this.#read = read
  }

  /**
   * @param {string} type
   * @param {string[]} ids
   * @returns {Promise<Record<string, string>>} these, perhaps among others; rejects if the call fails
   */
  get(type, ids) {
    if (ids.length <= KEYS_MAX) return this.#ask(type, ids)
    const parts = []
    for (let at = 0; at < ids.length; at += KEYS_MAX) parts.push(this.#ask(type, ids.slice(at, at + KEYS_MAX)))
    return Promise.all(parts).then((answers) => Object.assign({}, ...answers))
  }

  /** @param {string} type @param {string[]} ids at most `KEYS_MAX` */
  #ask(type, ids) {
    const open = this.#waiting.find((ask) => ask.type === type && ask.ids.size + ids.length <= KEYS_MAX)
    const ask = open ?? this.#add(type)
    for (const id of ids) ask.ids.add(id)
    return ask.answer
  }

  /** @param {string} type */
  #add(type) {
    /** @type {Ask['settle']} */
    let settle = () => {}
    const answer = /** @type {Ask['answer']} */ (new Promise((resolve) => { settle = resolve }))
    const ask = { type, ids: new Set(), answer, settle }
    this.#waiting.push(ask)
    setImmediate(() => this.#start()) // all requests of this turn go together
    return ask
  }

  #start() {
    while (this.#running < AT_ONCE && this.#waiting.length > 0) {
      const { type, ids, settle } = /** @type {Ask} */ (this.#waiting.shift())
      this.#running += 1
      const answer = this.#read(type, [...ids])
      settle(answer)
      const next = () => {
        this.#running -= 1
        this.#start()
      }
      answer.then(next, next)
    }
  }
}
