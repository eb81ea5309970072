/**
 * The order in which message stanzas reach Baileys.
 *
 * Two rules. A stanza whose every ciphertext was decrypted and committed before is a redelivery: its keys are spent, so it
 * is receipted and swallowed. And a live stanza never overtakes the offline backlog: interleaved, 101 of 1,704 messages
 * could not be decrypted; in order, none (FACTS §1, points 4 and 7).
 */

/** Hashes of this process' own decryptions; a redelivery within one connection comes soon or never. */
const RECENT_HASHES = 20_000

/**
 * @typedef {import('./stanza.js').Stanza} Stanza
 * @typedef {object} InboxHooks
 * @property {(hashes: string[]) => Promise<string[]>} known which of these were committed, asked of the worker; its
 *   failure has shut the gate already
 * @property {(stanza: Stanza) => void} deliver to Baileys
 * @property {(stanza: Stanza) => void} swallow receipt only
 * @property {number} holdMs live stanzas wait this long without progress of the backlog, then no longer
 */

export class Inbox {
  /** @type {Stanza[]} */
  #queue = []
  #busy = false
  #backlogDone = false
  /** @type {Set<Stanza>} */
  #unsettled = new Set()
  #offlineUnsettled = 0
  /** @type {Set<string>} */
  #recent = new Set()
  /** Ciphertexts that Baileys is at work on, each with the copies that wait for the outcome. @type {Map<string, Stanza[]>} */
  #atWork = new Map()
  /** @type {NodeJS.Timeout | undefined} */
  #timer

  /** @param {InboxHooks} hooks */
  constructor(hooks) {
    this.hooks = hooks
    this.swallowed = 0
    this.closed = false
  }

  /** @returns {Stanza[]} that have arrived and are not in the log yet, oldest first */
  get unsettled() { return [...this.#unsettled] }

  get waiting() { return this.#unsettled.size }

  /** @returns {number} when the oldest of them arrived, or 0 */
  get oldestArrival() { return this.#unsettled.values().next().value?.arrivedAt ?? 0 }

  /** @param {Stanza} stanza */
  arrive(stanza) {
    this.#unsettled.add(stanza)
    if (stanza.offline) this.#offlineUnsettled += 1
    this.#queue.push(stanza)
    this.#patience()
    void this.#drain()
  }

  /** The server says that the backlog is complete. */
  backlogComplete() {
    this.#backlogDone = true
    void this.#drain()
  }

  /**
   * The stanza is in the log (or was swallowed).
   * @param {Stanza} stanza
   * @param {string[]} hashes what was decrypted of it
   */
  settled(stanza, hashes) {
    for (const hash of hashes) this.#recent.add(hash)
    for (const oldest of this.#recent) {
      if (this.#recent.size <= RECENT_HASHES) break
      this.#recent.delete(oldest)
    }
    if (!this.#unsettled.delete(stanza)) return
    for (const { hash } of stanza.parts ?? []) {
      this.#queue.unshift(...(this.#atWork.get(hash) ?? []))
      this.#atWork.delete(hash)
    }
    if (stanza.offline) this.#offlineUnsettled -= 1
    this.#patience()
    if (this.#queue.length > 0) void this.#drain()
  }

  close() {
    this.closed = true
    clearTimeout(this.#timer)
    this.#queue = []
  }

  get #holdingLive() { return !this.#backlogDone || this.#offlineUnsettled > 0 }

  #patience() {
    clearTimeout(this.#timer)
    if (this.closed || !this.#holdingLive) return
    this.#timer = setTimeout(() => {
      this.#backlogDone = true
      this.#offlineUnsettled = 0
      void this.#drain()
    }, this.hooks.holdMs)
    this.#timer.unref()
  }

  async #drain() {
    if (this.#busy) return
    this.#busy = true
    try {
      for (;;) {
        const batch = this.#takeBatch()
        if (batch.length === 0) break
        await this.#deliverBatch(batch)
      }
    } finally {
      this.#busy = false
    }
  }

  /** @returns {Stanza[]} the next ones of one kind that may go, at most a hundred */
  #takeBatch() {
    if (this.closed) return []
    // The backlog first, even when a live stanza arrived in its middle; within each kind in order of arrival.
    const backlog = this.#queue.filter((stanza) => stanza.offline).slice(0, 100)
    const batch = backlog.length > 0 ? backlog : this.#holdingLive ? [] : this.#queue.slice(0, 100)
    const taken = new Set(batch)
    if (taken.size > 0) this.#queue = this.#queue.filter((stanza) => !taken.has(stanza))
    return batch
  }

  /** @param {Stanza[]} batch */
  async #deliverBatch(batch) {
    const hashes = batch.filter((stanza) => stanza.offline).flatMap((stanza) => (stanza.parts ?? []).map(({ hash }) => hash))
    const asked = hashes.filter((hash) => !this.#recent.has(hash))
    /** @type {Set<string>} */
    const known = new Set()
    if (asked.length > 0) {
      try {
        for (const hash of await this.hooks.known(asked)) known.add(hash)
      } catch {
        return this.close()
      }
      if (this.closed) return
    }
    for (const stanza of batch) {
      const first = (stanza.parts ?? []).map(({ hash }) => this.#atWork.get(hash)).find(Boolean)
      if (first) {
        first.push(stanza)
        continue
      }
      const spent = (stanza.parts ?? []).filter(({ hash }) => known.has(hash) || this.#recent.has(hash))
      if (spent.length > 0 && spent.length === stanza.parts?.length) {
        this.swallowed += 1
        this.hooks.swallow(stanza)
        this.settled(stanza, [])
      } else {
        stanza.forget(spent)
        for (const { hash } of stanza.parts ?? []) this.#atWork.set(hash, [])
        this.hooks.deliver(stanza)
      }
    }
  }
}
