/**
 * The Signal key store that Baileys reads and writes: a write-behind map over the worker's database.
 *
 * A write enters the map and the log at once and never waits. A read sees the map first, so an entry that is not yet
 * durable wins over the database; entries are evictable only after their commit. A read that fails, or brings what is
 * torn, is reported before its error is thrown: Baileys swallows such errors and would take them for "no session" (FACTS §7).
 */
import { serialise, revive } from '../baileys/serial.js'

/** Clean entries that are kept for reading; a sender key is about 440 bytes, the worst seen is 167 kB (FACTS §7). */
const CLEAN_ENTRIES = 20_000
const CLEAN_BYTES = 32_000_000
/** Ids have 20 to 100 characters; Postgres' index ends at 2.7 kB (FACTS §11). */
const ID_LONGEST = 512

/**
 * @typedef {import('./gate.js').KeyChanges} KeyChanges
 * @typedef {object} KeyHooks
 * @property {(type: string, ids: string[]) => Promise<Record<string, string>>} read from the worker
 * @property {(changes: KeyChanges) => number} journal into the log or the open section; returns the number after
 *   which the change is certainly durable
 * @property {(error: Error) => void} onReadFailure
 */

export class KeyStore {
  /** @type {Map<string, {value: string | null, number: number}>} */
  #dirty = new Map()
  /** @type {Map<string, string | null>} insertion order = age */
  #clean = new Map()
  #cleanBytes = 0

  /** @param {KeyHooks} hooks */
  constructor(hooks) {
    this.hooks = hooks
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

  /** @param {string} type @param {string[]} ids */
  async #read(type, ids) {
    const missing = ids.filter((id) => storable(id) && this.latest(type, id) === undefined)
    const read = missing.length > 0 ? await this.hooks.read(type, missing) : {}
    /** @type {Record<string, any>} */
    const found = {}
    for (const id of ids) {
      // Asked again after the read: a write that came meanwhile is newer than what the database said.
      let text = this.latest(type, id)
      if (text === undefined) {
        text = read[id] ?? null
        if (storable(id)) this.#keepClean(name(type, id), text)
      }
      if (text !== null) found[id] = whole(type, text)
    }
    return found
  }

  /**
   * @param {Record<string, Record<string, any>>} data
   * @throws {RangeError} before anything is changed, if no database would take one of the ids
   */
  async set(data) {
    for (const values of Object.values(data)) {
      if (!Object.keys(values ?? {}).every(storable)) throw new RangeError('a key whose id cannot be stored')
    }
    /** @type {KeyChanges} */
    const changes = {}
    for (const [type, values] of Object.entries(data)) {
      for (const [id, value] of Object.entries(values ?? {})) {
        const text = value === null || value === undefined ? null : serialise(type, value)
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
   * @returns {string | null | undefined} undefined = the map does not know
   */
  latest(type, id) {
    const dirty = this.#dirty.get(name(type, id))
    return dirty ? dirty.value : this.#clean.get(name(type, id))
  }

  /**
   * The numbers of these keys are known now: their section has closed.
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

  /** @param {number} number everything up to it is durable */
  durable(number) {
    for (const [key, entry] of this.#dirty) {
      if (entry.number > number) continue
      this.#dirty.delete(key)
      this.#keepClean(key, entry.value)
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
 * The error never quotes the text, as the parser's own would: it is a key.
 * @param {string} type
 * @param {string} text
 */
function whole(type, text) {
  try {
    return revive(type, text)
  } catch {
    throw new Error(`the stored ${type} is torn`)
  }
}

/**
 * A sender chooses the group that a key share is for, and with it the key's id. One that Postgres or the worker's client
 * refuses would refuse the whole batch, again at every redelivery: it is never asked for, and never accepted.
 * @param {string} id
 */
const storable = (id) => id.length <= ID_LONGEST && !/[\0\p{Cs}]/u.test(id)

/**
 * @param {string} type
 * @param {string} id
 */
const name = (type, id) => `${type}\0${id}`
