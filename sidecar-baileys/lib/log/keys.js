/**
 * The Signal key store: a write-behind map over the worker's database.
 *
 * A write enters the map and the log at once and never waits. A read checks the map first, so an entry that is not yet
 * durable wins over the database; only durable entries may be evicted. A read that fails, or finds a corrupt value, is
 * reported before it throws: Baileys swallows such errors and takes them for "no session" (docs/whatsapp.md, "Auth
 * state").
 */

import { KeyReads } from './key_reads.js'

/** Durable entries kept for reading. A sender key has about 440 bytes, after a long gap up to 167 kB. */
const CLEAN_ENTRIES = 20_000
const CLEAN_BYTES = 32_000_000
/** Ids have 20 to 100 characters; a Postgres index takes 2.7 kB (docs/supabase.md, "The embedded Supabase"). */
const ID_LONGEST = 512

/**
 * @typedef {import('./gate.js').KeyChanges} KeyChanges
 * @typedef {object} Codec values to text and back; `revive` throws if the text is torn
 * @property {(type: string, value: any) => string} serialise
 * @property {(type: string, text: string) => any} revive
 *
 * @typedef {object} KeyHooks
 * @property {Codec} codec
 * @property {(type: string, ids: string[]) => Promise<Record<string, string>>} read from the worker
 * @property {(changes: KeyChanges) => number} journal into the log or the open section; returns the number in
 *   the log at which the change is durable
 * @property {(error: Error) => void} onReadFailure
 */

export class KeyStore {
  #reads
  /** @type {Map<string, {value: string | null, number: number}>} */
  #dirty = new Map()
  /** @type {Map<string, string | null>} insertion order = age */
  #clean = new Map()
  #cleanBytes = 0

  /** @param {KeyHooks} hooks */
  constructor(hooks) {
    this.hooks = hooks
    this.#reads = new KeyReads((type, ids) => this.hooks.read(type, ids))
  }

  /**
   * @param {string} type
   * @param {string[]} ids
   * @returns {Promise<Record<string, any>>}
   */
  async get(type, ids) {
    try {
      return await this.#read(type, ids)
    } catch (error) {
      this.hooks.onReadFailure(error)
      throw error
    }
  }

  /**
   * Read these ahead of their use. A failure is reported by the read that needs the key.
   * @param {Record<string, string[]>} names type → ids
   */
  warm(names) {
    for (const [type, ids] of Object.entries(names)) {
      const missing = ids.filter((id) => storable(id) && this.latest(type, id) === undefined)
      if (missing.length > 0) this.#fetch(type, missing).catch(() => {})
    }
  }

  /** @param {string} type @param {string[]} ids */
  async #read(type, ids) {
    const missing = ids.filter((id) => storable(id) && this.latest(type, id) === undefined)
    const read = missing.length > 0 ? await this.#fetch(type, missing) : {}
    /** @type {Record<string, any>} */
    const found = {}
    for (const id of ids) {
      const kept = this.latest(type, id) // null: deleted meanwhile
      const text = kept === undefined ? read[id] ?? null : kept
      if (text !== null) found[id] = this.#revive(type, text)
    }
    return found
  }

  /**
   * @param {string} type @param {string[]} ids
   * @returns {Promise<Record<string, string>>} what the database says; kept, unless a write in the meantime is newer
   */
  async #fetch(type, ids) {
    const read = await this.#reads.get(type, ids)
    for (const id of ids) {
      if (this.latest(type, id) === undefined) this.#keepClean(name(type, id), read[id] ?? null)
    }
    return read
  }

  /**
   * @param {Record<string, Record<string, any>>} data
   * @throws {RangeError} before anything has changed, if the database would refuse one of the ids
   */
  async set(data) {
    for (const values of Object.values(data)) {
      if (!Object.keys(values ?? {}).every(storable)) throw new RangeError('this key id cannot be stored')
    }
    /** @type {KeyChanges} */
    const changes = {}
    for (const [type, values] of Object.entries(data)) {
      for (const [id, value] of Object.entries(values ?? {})) {
        const text = value === null || value === undefined ? null : this.hooks.codec.serialise(type, value)
        ;(changes[type] ??= {})[id] = text
        this.#dropClean(name(type, id))
        this.#dirty.set(name(type, id), { value: text, number: Infinity })
      }
    }
    const number = this.hooks.journal(changes)
    for (const [type, values] of Object.entries(changes)) {
      for (const id of Object.keys(values)) {
        const entry = this.#dirty.get(name(type, id))
        if (entry) entry.number = number
      }
    }
  }

  /**
   * @param {string} type
   * @param {string} id
   * @returns {string | null | undefined} null: deleted; undefined: not in the map
   */
  latest(type, id) {
    const dirty = this.#dirty.get(name(type, id))
    return dirty ? dirty.value : this.#clean.get(name(type, id))
  }

  /**
   * The section of these keys has closed: they have a number now.
   * @param {KeyChanges} changes
   * @param {number} number
   */
  renumber(changes, number) {
    for (const [type, values] of Object.entries(changes)) {
      for (const [id, value] of Object.entries(values)) {
        const entry = this.#dirty.get(name(type, id))
        if (entry && entry.value === value) entry.number = number
      }
    }
  }

  /** Everything up to this number is durable. @param {number} number */
  durable(number) {
    for (const [key, entry] of this.#dirty) {
      if (entry.number > number) continue
      this.#dirty.delete(key)
      this.#keepClean(key, entry.value)
    }
  }

  /** @param {string} type @param {string} text */
  #revive(type, text) {
    try {
      return this.hooks.codec.revive(type, text)
    } catch {
      throw new Error(`the stored ${type} is torn`) // the parser's own error would quote the key
    }
  }

  /**
   * @param {string} key
   * @param {string | null} value
   */
  #keepClean(key, value) {
    this.#dropClean(key)
    this.#clean.set(key, value)
    this.#cleanBytes += value?.length ?? 0
    for (const oldest of this.#clean.keys()) {
      if (this.#clean.size <= CLEAN_ENTRIES && this.#cleanBytes <= CLEAN_BYTES) break
      this.#dropClean(oldest)
    }
  }

  /** @param {string} key */
  #dropClean(key) {
    const old = this.#clean.get(key)
    if (old === undefined) return
    this.#clean.delete(key)
    this.#cleanBytes -= old?.length ?? 0
  }
}

/**
 * A sender chooses the group of a key share, and so the key's id. If Postgres or the worker's client refuses the id, it
 * refuses the whole batch, again at every redelivery. Never read and never accept one.
 * @param {string} id
 */
const storable = (id) => id.length <= ID_LONGEST && !/[\0\p{Cs}]/u.test(id)

/**
 * @param {string} type
 * @param {string} id
 */
const name = (type, id) => `${type}\0${id}`
