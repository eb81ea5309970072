/**
 * The order in which message stanzas are delivered for decryption (docs/whatsapp.md, "Holding frames").
 *
 * 1. A stanza whose every ciphertext was decrypted and committed before is a redelivery. Its keys are spent: receipt it
 * and drop it.
 * 2. A live stanza never overtakes the offline backlog. Interleaved, 101 of 1,704 messages could not be decrypted; in
 * order, none.
 * 3. Stanzas that are never stored delay nothing. Direct messages and statuses of people who have no group message
 * waiting go last, few at a time, and no live stanza waits for them. A flood of them costs the groups nothing. Those of
 * the backlog are looked up together while they wait.
 * 4. Stanzas of one author go one after another. Before it decrypts, Baileys looks up the author without a lock, which
 * takes longest for a new author: the second message would overtake the first, which brings the keys. Of 180 messages,
 * sent three at a time by 60 new people, 34 were refused.
 * 5. A suspect, whose decryption ended a sidecar, is delivered when nothing else is in progress, and nothing else is
 * delivered while it is (docs/architecture.md, "A stanza that kills").
 */

import { Backlog } from './backlog.js'

/** Hashes decrypted by this process. A redelivery within one connection comes soon or never. */
const RECENT_HASHES = 20_000
/** Stanzas that are looked up together. */
const BATCH = 1000
/** While so many that were looked up are in progress, others wait until as many can be looked up together. */
export const GATHERED = 200
/** Stanzas of chats that are never stored, in progress at once. */
const UNSTORED_IN_WORK = 4

/**
 * @typedef {object} Part one ciphertext
 * @property {Uint8Array} content
 * @property {string} hash
 *
 * @typedef {object} Arrival a stanza, as far as the inbox sees it
 * @property {boolean} offline from the offline backlog
 * @property {string} author
 * @property {boolean} stored its chat may be stored
 * @property {boolean} alone a suspect: nothing else may be in progress meanwhile
 * @property {number} [arrivedAt] milliseconds since 1970
 * @property {{open: boolean}} [section] set once its decryption has begun; open until it is in the log
 * @property {string | null} [hash] identifies it when it comes again
 * @property {number} expectedBytes approximate size in the log
 * @property {Part[]} [parts]
 * @property {(spent: Part[]) => void} forget remove these parts
 *
 * @typedef {object} InboxHooks
 * @property {(hashes: string[]) => Promise<string[]>} known asks the worker which of these were committed; before it
 *   rejects, it shuts the gate
 * @property {(stanza: any) => void} deliver to be decrypted
 * @property {(stanza: any) => void} swallow receipt only
 * @property {() => void} askForMore request the next window of the backlog
 * @property {() => boolean} busy what arrived is not durable yet, so WhatsApp's silence means nothing
 * @property {number} holdMs how long live stanzas wait while the backlog makes no progress
 * @property {() => number} [now] milliseconds; used to find what is stuck
 */

export class Inbox {
  /** @type {Arrival[]} */
  #queue = []
  #busy = false
  /** @type {Set<Arrival>} */
  #unsettled = new Set()
  /**
   * Of chats that are never stored: looked up and still in the queue, each with the known hashes of its lookup.
   * @type {Map<Arrival, Set<string>>}
   */
  #lookedUp = new Map()
  /** Taken from the queue and not settled yet, of chats that are never stored. @type {Set<Arrival>} */
  #unstored = new Set()
  /** @type {Set<string>} */
  #recent = new Set()
  /**
   * Author of a stanza in progress → stanzas that wait for it, each with its known hashes.
   * @type {Map<string, [Arrival, Set<string>][]>}
   */
  #lanes = new Map()
  /** Delivered and not settled yet, oldest first, with the time of the delivery. @type {Map<Arrival, number>} */
  #inWork = new Map()
  /** When a decryption last ended. */
  #decryptedAt = -Infinity
  /** The latest delivery time of all that were decrypted. */
  #decryptedUpTo = -Infinity
  /** Not delivered yet, because a suspect is in work or comes first. @type {Arrival[]} */
  #ready = []
  /** @type {Backlog} */
  #backlog
  #now

  /** @param {InboxHooks} hooks */
  constructor(hooks) {
    this.hooks = hooks
    this.#now = hooks.now ?? (() => performance.now()) // monotonic
    this.#backlog = new Backlog({
      ask: () => hooks.askForMore(),
      busy: () => hooks.busy(),
      released: () => void this.#drain(),
      holdMs: hooks.holdMs,
    })
    /** Approximate size of the unsettled stanzas in the log. */
    this.waitingBytes = 0
    this.swallowed = 0
    this.closed = false
  }

  /** @returns {any[]} that have arrived and are not in the log yet, oldest first */
  get unsettled() { return [...this.#unsettled] }

  /** @returns {number} when the oldest of them arrived, milliseconds since 1970; 0: there is none */
  get oldestArrival() { return this.#unsettled.values().next().value?.arrivedAt ?? 0 }

  /** @returns {any[]} that were delivered and are not in the log yet, oldest first */
  get inWork() { return [...this.#inWork.keys()] }

  get waiting() { return this.#unsettled.size }

  /**
   * The stuck stanza, and for how long, milliseconds; null if none is in progress. Baileys looks up authors
   * concurrently, and then decrypts one stanza at a time, in order of arrival. So the oldest is stuck if one delivered
   * long after it has been decrypted. If none has been for long, it is the one in decryption, if any.
   * @returns {{stanza: any, ms: number} | null}
   */
  get stuck() {
    const [[oldest, since] = []] = this.#inWork
    if (!oldest || since === undefined) return null
    const overtaken = this.#decryptedUpTo - since
    const still = this.#now() - Math.max(since, this.#decryptedAt)
    if (overtaken > still) return { stanza: oldest, ms: overtaken }
    return { stanza: this.inWork.find(({ section }) => section?.open) ?? oldest, ms: still }
  }

  /** @param {Arrival} stanza */
  arrive(stanza) {
    this.#unsettled.add(stanza)
    this.waitingBytes += stanza.expectedBytes
    this.#queue.push(stanza)
    if (stanza.offline) this.#backlog.arrived()
    else this.#backlog.liveWaits()
    // Nothing waits for a stanza that is never stored.
    if (stanza.offline && !stanza.stored) this.#backlog.settled()
    void this.#drain()
  }

  /** A receipt or a notification of the backlog: it counts towards the window, and nothing waits for it. */
  otherArrived() {
    this.#backlog.arrived()
    this.#backlog.settled()
  }

  /** The server says that it has sent the whole backlog. */
  backlogComplete() {
    this.#backlog.complete()
    void this.#drain()
  }

  /**
   * The stanza is in the log, or was dropped after its receipt.
   * @param {Arrival} stanza
   * @param {string[]} hashes what was decrypted of it
   */
  settled(stanza, hashes) {
    for (const hash of hashes) this.#recent.add(hash)
    for (const oldest of this.#recent) {
      if (this.#recent.size <= RECENT_HASHES) break
      this.#recent.delete(oldest)
    }
    if (!this.#unsettled.delete(stanza)) return
    if (stanza.section) {
      this.#decryptedAt = this.#now()
      this.#decryptedUpTo = Math.max(this.#decryptedUpTo, this.#inWork.get(stanza) ?? 0)
    }
    this.#inWork.delete(stanza)
    this.waitingBytes -= stanza.expectedBytes
    this.#unstored.delete(stanza)
    if (stanza.offline && stanza.stored) this.#backlog.settled()
    this.#next(stanza.author)
    this.#deliverReady()
    if (this.#queue.length > 0) void this.#drain()
  }

  close() {
    this.closed = true
    this.#backlog.close()
    this.#queue = []
    this.#ready = []
    this.#lookedUp.clear()
    this.#lanes.clear()
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

  /**
   * Whether the backlog waits for company: each lookup is a call, however few it asks for. Each stanza that settles
   * asks again, so nothing waits once less is in progress; nor once live stanzas wait no longer for the backlog.
   */
  get #gathers() {
    const lookedUp = this.#unsettled.size - this.#queue.length
    return this.#backlog.holding && lookedUp >= GATHERED && this.#queue.length < GATHERED
      && this.#queue.some(({ offline, stored }) => offline && stored)
  }

  /** @returns {Arrival[]} the next that may go, all offline or all live */
  #takeBatch() {
    if (this.closed || this.#gathers) return []
    const writers = new Set(this.#queue.filter(({ stored }) => stored).map(({ author }) => author))
    const first = this.#inOrder(this.#queue.filter(({ author }) => writers.has(author))).slice(0, BATCH)
    const batch = first.length > 0 ? first : this.#inOrder(this.#queue.filter(({ author }) => !writers.has(author)))
      .slice(0, Math.max(0, UNSTORED_IN_WORK - this.#unstored.size))
    const taken = new Set(batch)
    if (taken.size > 0) this.#queue = this.#queue.filter((stanza) => !taken.has(stanza))
    for (const stanza of batch) if (!stanza.stored) this.#unstored.add(stanza)
    return batch
  }

  /**
   * The backlog first, even if a live stanza arrived in its middle; each kind in order of arrival.
   * @param {Arrival[]} stanzas
   */
  #inOrder(stanzas) {
    const backlog = stanzas.filter(({ offline }) => offline)
    return backlog.length > 0 ? backlog : this.#backlog.holding ? [] : stanzas
  }

  /** @param {Arrival[]} batch */
  async #deliverBatch(batch) {
    const asked = this.#unheardOf(batch)
    const known = asked.length > 0 ? await this.#lookUp(asked) : new Set()
    if (this.closed) return
    for (const stanza of batch) {
      const spent = this.#lookedUp.get(stanza) ?? known
      this.#lookedUp.delete(stanza)
      const lane = this.#lanes.get(stanza.author)
      if (lane) lane.push([stanza, spent])
      else {
        this.#lanes.set(stanza.author, [])
        this.#handOver(stanza, spent)
      }
    }
  }

  /**
   * Asks about these hashes, and in the same call about what else waits and is never stored: that is delivered few at a
   * time, and a call for each few costs as much as one for all.
   * @param {string[]} hashes
   * @returns {Promise<Set<string>>} those that were committed before
   */
  async #lookUp(hashes) {
    const others = this.#queue.filter((one) => one.offline && !one.stored && !this.#lookedUp.has(one))
      .slice(0, Math.max(0, BATCH - hashes.length))
    const asked = [...hashes, ...this.#unheardOf(others)]
    /** @type {Set<string>} */
    const known = new Set()
    try {
      for (const hash of await this.hooks.known(asked)) known.add(hash)
    } catch {
      this.close()
    }
    if (!this.closed) for (const stanza of others) this.#lookedUp.set(stanza, known)
    return known
  }

  /** @param {Arrival[]} stanzas @returns {string[]} hashes of the backlog that nobody was asked about yet */
  #unheardOf(stanzas) {
    return stanzas.filter((stanza) => stanza.offline && !this.#lookedUp.has(stanza))
      .flatMap(({ parts }) => (parts ?? []).map(({ hash }) => hash)).filter((hash) => !this.#recent.has(hash))
  }

  /** Hand over this author's next stanza. @param {string} author */
  #next(author) {
    const next = this.#lanes.get(author)?.shift()
    if (!next) this.#lanes.delete(author)
    // Not on this stack: a thousand dropped in a row would recurse.
    else queueMicrotask(() => { if (!this.closed) this.#handOver(...next) })
  }

  /** @param {Arrival} stanza @param {Set<string>} known committed before, says the worker */
  #handOver(stanza, known) {
    const spent = (stanza.parts ?? []).filter(({ hash }) => known.has(hash) || this.#recent.has(hash))
    if (spent.length > 0 && spent.length === stanza.parts?.length) {
      this.swallowed += 1
      this.hooks.swallow(stanza)
      this.settled(stanza, [])
    } else {
      stanza.forget(spent)
      this.#ready.push(stanza)
      this.#deliverReady()
    }
  }

  #deliverReady() {
    for (;;) {
      const [next] = this.#ready
      const [first] = this.#inWork.keys()
      if (!next || first?.alone || (first && next.alone)) return
      this.#ready.shift()
      this.#inWork.set(next, this.#now())
      this.hooks.deliver(next)
    }
  }
}
