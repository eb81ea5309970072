/**
 * Baileys hands the key changes of a transaction over at its end, but sends from within: a retry receipt with a new
 * pre-key, a request to the phone with the ratchet that encrypted it. They are remembered here, for the frame.
 */
import { AsyncLocalStorage } from 'node:async_hooks'

/** @typedef {Record<string, Record<string, any>>} KeyData */

export class Transactions {
  /** What one has changed and not handed over. @type {AsyncLocalStorage<{open: boolean, changes: KeyData[]}>} */
  #own = new AsyncLocalStorage()

  /** @param {(data: KeyData) => Promise<void>} store where keys go in the end */
  constructor(store) {
    this.store = store
  }

  /** @param {any} keys Baileys' key store around ours */
  watch(keys) {
    const { transaction, set } = keys
    keys.transaction = async (/** @type {() => Promise<any>} */ work, /** @type {string} */ name) => {
      if (keys.isInTransaction()) return transaction(work, name)
      const own = { open: true, changes: [] }
      try {
        return await this.#own.run(own, () => transaction(work, name))
      } finally {
        own.open = false // what still runs in its name would bring old values back
      }
    }
    keys.set = async (/** @type {KeyData} */ data) => {
      // Baileys' own queue would run it in the name of whoever came before, and put it into another stanza's section.
      if (!keys.isInTransaction()) return this.store(data)
      await set(data)
      const own = this.#own.getStore()
      if (own?.open) own.changes.push(data)
    }
  }

  /** Into the log with it, before a frame that may tell of it. */
  flush() {
    const own = this.#own.getStore()
    if (!own?.open) return
    for (const changes of own.changes.splice(0)) void this.store(changes).catch(() => {}) // so fails the transaction
  }
}
