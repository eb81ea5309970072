/**
 * Key changes of Baileys' transactions, journaled before a frame that depends on them.
 *
 * Baileys stores the changes of a transaction at its end, but sends frames inside it: a retry receipt with a new
 * pre-key, or a request to the phone that the changed ratchet encrypted.
 */
import { AsyncLocalStorage } from 'node:async_hooks'

/** @typedef {Record<string, Record<string, any>>} KeyData */

export class Transactions {
  /**
   * The running transaction: what it changed and has not stored yet.
   * @type {AsyncLocalStorage<{open: boolean, changes: KeyData[]}>}
   */
  #running = new AsyncLocalStorage()

  /** @param {(data: KeyData) => Promise<void>} store into the key store */
  constructor(store) {
    this.store = store
  }

  /** @param {any} keys Baileys' transactional store around ours */
  watch(keys) {
    const { transaction, set } = keys
    keys.transaction = async (/** @type {() => Promise<any>} */ work, /** @type {string} */ name) => {
      if (keys.isInTransaction()) return transaction(work, name)
      const running = { open: true, changes: [] }
      try {
        // Baileys' lock of this name is also its lock for reading keys of the type of that name. A sender chooses the
        // group's name in a key share: `sender-key` would wait for itself, and everything for it.
        return await this.#running.run(running, () => transaction(work, `transaction ${name}`))
      } finally {
        running.open = false // code still running in this context would bring old values back
      }
    }
    keys.set = async (/** @type {KeyData} */ data) => {
      // Bypass Baileys' queue: it would run this in the context of an earlier caller, in another stanza's section.
      if (!keys.isInTransaction()) return this.store(data)
      await set(data)
      const running = this.#running.getStore()
      if (running?.open) running.changes.push(data)
    }
  }

  /** Journal the changes so far; call it before a frame that may depend on them enters the gate. */
  flush() {
    const running = this.#running.getStore()
    if (!running?.open) return
    for (const changes of running.changes.splice(0)) {
      void this.store(changes).catch(() => {}) // the transaction stores them again, and fails with this error
    }
  }
}
