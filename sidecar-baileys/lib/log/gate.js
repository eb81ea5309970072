/**
 * The ordered log and the frame gate: nothing leaves for WhatsApp before its cause is durable.
 *
 * Why this exists. Stock Baileys decrypts a message (spending its keys), sends the receipt, and only then tells its
 * user. A crash in between loses the message for ever: the server deletes what was receipted, and the keys are spent.
 * Here everything that must survive goes into one ordered log, every outgoing frame remembers how far the log had
 * grown when it was queued, and it is written to the socket only when the worker has confirmed that much. A receipt
 * therefore cannot overtake the message it acknowledges, nor a pre-key upload the private keys it announces.
 *
 *   items   ──append──▶  log  ──commit (one batch at a time)──▶  durable number grows
 *   frames  ──send────▶  queue, tagged with a number  ──when durable ≥ tag──▶  socket, in order
 *
 * A section collects the parts of one stanza (its keys, its plaintexts) and enters the log as ONE item when it closes,
 * so a batch can never hold half of a stanza. Frames that are sent from inside an open section carry the number from
 * before it: the decryption may be waiting for their answer.
 *
 * Owns no network, no clock and no keys. Decides nothing: the worker retries commits, this waits.
 */

/** More stanzas than this are not put into one batch: the worker's SQL function is flat up to here (FACTS §11). */
export const BATCH_STANZAS = 500
/** Bytes after which a batch is full; one item larger than this still travels, alone. */
export const BATCH_BYTES = 1_000_000

/**
 * @typedef {Record<string, Record<string, string | null>>} KeyChanges type → id → serialised value, null = deleted
 *
 * @typedef {object} Item one indivisible entry of the log
 * @property {string} [creds] serialised credentials
 * @property {KeyChanges} [keys]
 * @property {object} [stanza]
 * @property {object[]} [events]
 * @property {number} bytes how much memory it takes, roughly
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
 * @property {(error: Error) => void} [onFailure] the gate has shut for good; nothing will leave any more
 * @property {() => void} [onDepth] the log has grown or shrunk: look at `bytes`
 * @property {() => number} [now] milliseconds, for the longest hold
 */

/** A stanza in the making. */
export class Section {
  /** @type {Map<string, Set<string>>} */
  #touched = new Map()

  /** @param {number} base what must be durable before a frame sent from inside may leave */
  constructor(base) {
    this.base = base
    this.open = true
  }

  /** @param {KeyChanges} changes remembered by name only: the values are read when the section closes */
  touch(changes) {
    for (const [type, values] of Object.entries(changes)) {
      const ids = this.#touched.get(type) ?? new Set()
      for (const id of Object.keys(values)) ids.add(id)
      this.#touched.set(type, ids)
    }
  }

  /**
   * @param {(type: string, id: string) => string | null | undefined} latest the present value of a key
   * @returns {KeyChanges} the touched keys with the values they have now, so that an older value can never
   *   enter the log behind a newer one
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
  /** @type {{number: number, item: Item}[]} */
  #log = []
  /** @type {{tag: number, frame: Uint8Array, at: number}[]} */
  #frames = []
  #appended = 0
  #durable = 0
  #seq = 0
  #committing = false
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
    this.#now = hooks.now ?? Date.now
  }

  get items() { return this.#log.length }
  get held() { return this.#frames.length }
  get openSections() { return this.#sections.size }
  get appended() { return this.#appended }
  get durable() { return this.#durable }
  get failure() { return this.#failure }

  /**
   * Put an item at the end of the log.
   * @param {Item} item
   * @returns {number} its number
   */
  append(item) {
    if (this.#failure) return this.#appended
    this.#log.push({ number: ++this.#appended, item })
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
   * Close a section: all of it becomes one item of the log.
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
   * Queue a frame. It is written when everything that had entered the log before it is durable.
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
   * Shut for good: no frame leaves, nothing more is committed, what is in the log is forgotten. WhatsApp has no
   * receipt for any of it and will deliver it again.
   * @param {Error} error
   */
  fail(error) {
    if (this.#failure) return
    this.#failure = error
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
    // One tick of patience lets everything of this turn share the batch.
    setImmediate(() => void this.#commitNext())
  }

  async #commitNext() {
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
 * @returns {Batch} where several items set the same key or the credentials, the last one stands
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
