/**
 * The order in which message stanzas reach Baileys.
 *
 * Three rules. A stanza whose every ciphertext was decrypted and committed before is a redelivery: its keys are spent, so
 * it is receipted and swallowed. A live stanza never overtakes the offline backlog: interleaved, 101 of 1,704 messages
 * could not be decrypted; in order, none (FACTS §1, points 4 and 7). And one author's stanzas go one after another: before
 * it decrypts, Baileys looks the author up without any lock, which takes longest for somebody new, so a second message
 * would overtake the first, which brings its keys (34 of 180 were refused so, sent three at a time by 60 new people).
 */

/** Hashes of this process' own decryptions; a redelivery within one connection comes soon or never. */
const RECENT_HASHES = 20_000

/**
 * @typedef {import('../baileys/stanza.js').Stanza} Stanza
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
  /** Authors whose stanza Baileys is at work on, with those that wait for it (and the known hashes). @type {Map<string, [Stanza, Set<string>][]>} */
  #lanes = new Map()
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
    if (stanza.offline) this.#offlineUnsettled -= 1
    this.#patience()
    this.#next(stanza.author)
    if (this.#queue.length > 0) void this.#drain()
  }

  close() {
    this.closed = true
    clearTimeout(this.#timer)
    this.#queue = []
    this.#lanes.clear()
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
      const lane = this.#lanes.get(stanza.author)
      if (lane) lane.push([stanza, known])
      else {
        this.#lanes.set(stanza.author, [])
        this.#handOver(stanza, known)
      }
    }
  }

  /** @param {string} author whose stanza is settled: the turn of the next */
  #next(author) {
    const next = this.#lanes.get(author)?.shift()
    if (!next) this.#lanes.delete(author)
    // Not in this stack: a thousand swallowed in a row would be a recursion.
    else queueMicrotask(() => { if (!this.closed) this.#handOver(...next) })
  }

  /** @param {Stanza} stanza @param {Set<string>} known committed before, as the worker says */
  #handOver(stanza, known) {
    const spent = (stanza.parts ?? []).filter(({ hash }) => known.has(hash) || this.#recent.has(hash))
    if (spent.length > 0 && spent.length === stanza.parts?.length) {
      this.swallowed += 1
      this.hooks.swallow(stanza)
      this.settled(stanza, [])
    } else {
      stanza.forget(spent)
      this.hooks.deliver(stanza)
    }
  }
}
