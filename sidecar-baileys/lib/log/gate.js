/**
 * The ordered log and the frame gate: nothing leaves for WhatsApp before its cause is durable.
 *
 * Stock Baileys decrypts a message, which spends its keys, sends the receipt, and only then tells its user. A crash
 * in between loses the message: the server deletes what was receipted. Here everything that must survive enters one
 * ordered log. Every outgoing frame remembers how long the log was when the frame was queued, and is written to the
 * socket when the worker has confirmed that much. So a receipt cannot overtake its message, nor a pre-key upload its
 * private keys.
 *
 *   items   ──append──▶  log  ──commit (one batch at a time)──▶  durable number grows
 *   frames  ──send────▶  queue, tagged with a number  ──when durable ≥ tag──▶  socket, in order
 *
 * A section collects the parts of one stanza (its keys, its plaintexts) and enters the log as ONE item when it closes,
 * so a batch never holds half of a stanza. A frame sent inside an open section carries the number from before it: the
 * decryption may be waiting for the answer.
 *
 * Owns no network, no clock and no keys. Decides nothing: the worker retries commits, this waits.
 */

/** Most stanzas in a batch; the commit function is flat up to here (docs/supabase.md, "The commit function"). */
export const BATCH_STANZAS = 500
/** Bytes at which a batch is full; a larger item is sent alone. */
export const BATCH_BYTES = 1_000_000
/**
 * A commit costs nearly the same whatever it carries. So while stanzas are being decrypted, the commit waits this many
 * milliseconds for the next one. A machine that decrypts a hundred a second gathers; one that waits for an answer from
 * WhatsApp does not.
 */
export const GATHER_STEP_MS = 10
/** Longest wait of the first item of a batch, milliseconds. */
export const GATHER_MS = 250
/** With this many items a commit no longer waits. */
const GATHER_ITEMS = 400

/**
 * @typedef {Record<string, Record<string, string | null>>} KeyChanges type → id → serialised value, null = deleted
 *
 * @typedef {object} Item one indivisible entry of the log
 * @property {string} [creds] serialised credentials
 * @property {KeyChanges} [keys]
 * @property {object} [stanza]
 * @property {object[]} [events]
 * @property {number} bytes approximate memory
 *
 * @typedef {object} Batch what one commit carries
 * @property {number} seq counts from 1 in each epoch
 * @property {string} [creds]
 * @property {KeyChanges} [keys]
 * @property {object[]} stanzas
 * @property {object[]} events
 *
 * @typedef {object} GateHooks
 * @property {(batch: Batch) => Promise<void>} commit resolves when the batch is durable; a rejection is final
 * @property {(frame: Uint8Array) => void} write puts one frame on the socket
 * @property {(number: number) => void} [onDurable] everything up to this number is durable
 * @property {(error: Error) => void} [onFailure] the gate has shut for good; nothing leaves any more
 * @property {() => number} [inWork] stanzas that have arrived and will enter the log
 * @property {() => void} [onDepth] the log has grown or shrunk: look at `bytes`
 * @property {() => number} [now] milliseconds; measures the longest hold
 */

/** A stanza that is being decrypted. */
export class Section {
  /** @type {Map<string, Set<string>>} */
  #touched = new Map()

  /** @param {number} base what must be durable before a frame sent from inside may leave */
  constructor(base) {
    this.base = base
    this.open = true
  }

  /** Remember which keys changed; their values are read when the section closes. @param {KeyChanges} changes */
  touch(changes) {
    for (const [type, values] of Object.entries(changes)) {
      const ids = this.#touched.get(type) ?? new Set()
      for (const id of Object.keys(values)) ids.add(id)
      this.#touched.set(type, ids)
    }
  }

  /**
   * The touched keys with their current values, so that an older value never enters the log behind a newer one.
   * @param {(type: string, id: string) => string | null | undefined} latest the current value of a key
   * @returns {KeyChanges}
   */
  changes(latest) {
    /** @type {KeyChanges} */
    const changes = {}
    for (const [type, ids] of this.#touched) {
      for (const id of ids) (changes[type] ??= {})[id] = latest(type, id) ?? null
    }
    return changes
  }
}

/** One connection's log and frame queue. A new connection gets a new gate. */
export class Gate {
  /** `at`: when the item was appended, milliseconds since 1970. @type {{number: number, item: Item, at: number}[]} */
  #log = []
  /** @type {{tag: number, frame: Uint8Array, at: number}[]} */
  #frames = []
  #appended = 0
  #durable = 0
  #seq = 0
  #committing = false
  /** When the oldest item that waits for others was first seen, milliseconds. */
  #gatheringSince = NaN
  /** @type {NodeJS.Timeout | undefined} */
  #gatherStep
  /** @type {Set<Section>} */
  #sections = new Set()
  /** @type {(() => void)[]} */
  #waiters = []
  /** @type {Error | null} */
  #failure = null
  #now

  /** @param {GateHooks} hooks */
  constructor(hooks) {
    this.hooks = hooks
    this.bytes = 0
    this.bytesMax = 0
    this.longestHoldMs = 0
    this.#now = hooks.now ?? (() => performance.now()) // monotonic
  }

  get items() { return this.#log.length }
  get held() { return this.#frames.length }
  get openSections() { return this.#sections.size }
  get appended() { return this.#appended }
  get durable() { return this.#durable }
  get failure() { return this.#failure }

  /** When the oldest that is not durable arrived, milliseconds since 1970; Infinity: all is. @returns {number} */
  get oldestArrival() {
    return this.#log.reduce((oldest, { item, at }) =>
      Math.min(oldest, /** @type {any} */ (item.stanza)?.arrived_at_ms ?? at), Infinity)
  }

  /**
   * Put an item at the end of the log.
   * @param {Item} item
   * @returns {number} its number
   */
  append(item) {
    if (this.#failure) return this.#appended
    this.#log.push({ number: ++this.#appended, item, at: Date.now() })
    this.bytes += item.bytes
    this.bytesMax = Math.max(this.bytesMax, this.bytes)
    this.hooks.onDepth?.()
    this.#pump()
    return this.#appended
  }

  /** @returns {Section} */
  openSection() {
    const section = new Section(this.#appended)
    this.#sections.add(section)
    return section
  }

  /**
   * Close a section: it becomes one item of the log.
   * @param {Section} section
   * @param {Item} item
   */
  closeSection(section, item) {
    if (!section.open) return
    section.open = false
    this.#sections.delete(section)
    this.append(item)
  }

  /**
   * Queue a frame. It is written when everything ahead of it in the log is durable.
   * @param {Uint8Array} frame
   * @param {Section} [section] the open section on whose behalf it is sent
   */
  send(frame, section) {
    if (this.#failure) return
    const tag = section?.open ? section.base : this.#appended
    this.#frames.push({ tag, frame, at: this.#now() })
    this.#release()
  }

  /**
   * Shut for good: no frame leaves, nothing is committed, the log is dropped. WhatsApp has no receipt for any of it and
   * delivers it again.
   * @param {Error} error
   */
  fail(error) {
    if (this.#failure) return
    this.#failure = error
    clearTimeout(this.#gatherStep)
    this.#log = []
    this.#frames = []
    this.#sections.clear()
    this.bytes = 0
    this.#wake()
    this.hooks.onFailure?.(error)
  }

  /**
   * Resolves when the log is empty and every frame is written, or the gate has failed.
   * @returns {Promise<void>}
   */
  async settled() {
    while (!this.#failure && (this.#log.length > 0 || this.#committing || this.#frames.length > 0)) {
      await new Promise((resolve) => this.#waiters.push(() => resolve(undefined)))
    }
  }

  #wake() {
    for (const waiter of this.#waiters.splice(0)) waiter()
  }

  #release() {
    let written = 0
    for (const { tag, frame, at } of this.#frames) {
      if (tag > this.#durable) break
      this.longestHoldMs = Math.max(this.longestHoldMs, this.#now() - at)
      this.hooks.write(frame)
      written += 1
    }
    if (written > 0) this.#frames.splice(0, written)
    this.#wake()
  }

  #pump() {
    if (this.#committing || this.#failure || this.#log.length === 0) return
    this.#committing = true
    clearTimeout(this.#gatherStep)
    // Wait one tick: everything from this turn shares the batch.
    setImmediate(() => {
      if (this.#gathers()) this.#committing = false
      else void this.#commitNext()
    })
  }

  /** @returns {boolean} the batch waits for what is in work; the next item or the end of the step looks again */
  #gathers() {
    const now = this.#now()
    if (Number.isNaN(this.#gatheringSince)) this.#gatheringSince = now
    const enough = this.#log.length >= GATHER_ITEMS || this.bytes >= BATCH_BYTES
    if (this.#failure || enough || now - this.#gatheringSince >= GATHER_MS || !this.hooks.inWork?.()) return false
    this.#gatherStep = setTimeout(() => {
      if (this.#committing || this.#failure || this.#log.length === 0) return
      this.#committing = true
      void this.#commitNext()
    }, GATHER_STEP_MS)
    return true
  }

  async #commitNext() {
    this.#gatheringSince = NaN
    const entries = this.#takeBatch()
    try {
      if (entries.length > 0) await this.hooks.commit(merge(entries.map(({ item }) => item), ++this.#seq))
    } catch (error) {
      this.#committing = false
      this.fail(error)
      return
    }
    this.#committing = false
    if (this.#failure || entries.length === 0) return
    this.#log.splice(0, entries.length)
    for (const { item } of entries) this.bytes -= item.bytes
    this.#durable = entries[entries.length - 1].number
    this.hooks.onDurable?.(this.#durable)
    this.hooks.onDepth?.()
    this.#release()
    this.#pump()
  }

  #takeBatch() {
    let stanzas = 0
    let bytes = 0
    let count = 0
    for (const { item } of this.#log) {
      stanzas += item.stanza ? 1 : 0
      bytes += item.bytes
      if (count > 0 && (stanzas > BATCH_STANZAS || bytes > BATCH_BYTES)) break
      count += 1
    }
    return this.#log.slice(0, count)
  }
}

/**
 * @param {Item[]} items in log order
 * @param {number} seq
 * @returns {Batch} of several values of a key, or of the credentials, the last one
 */
function merge(items, seq) {
  /** @type {Batch} */
  const batch = { seq, stanzas: [], events: [] }
  for (const item of items) {
    if (item.creds !== undefined) batch.creds = item.creds
    if (item.stanza) batch.stanzas.push(item.stanza)
    if (item.events) batch.events.push(...item.events)
    for (const [type, values] of Object.entries(item.keys ?? {})) {
      batch.keys ??= {}
      batch.keys[type] = Object.assign(batch.keys[type] ?? {}, values)
    }
  }
  return batch
}
