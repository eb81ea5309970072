/**
 * From a stanza that arrives to its one place in the log: its plaintext where it first exists, and the keys that its
 * decryption changed, as one atomic section.
 *
 * Wraps Baileys' signal repository, which alone sees a plaintext before the receipt (FACTS §1).
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { setImmediate as yieldTurn } from 'node:timers/promises'
import { binaryNodeToString } from 'baileys'

/**
 * @typedef {import('./gate.js').KeyChanges} KeyChanges
 * @typedef {import('../baileys/stanza.js').Stanza} Stanza
 * @typedef {object} SectionHooks
 * @property {import('./gate.js').Gate} gate
 * @property {() => import('./keys.js').KeyStore} keys
 * @property {() => void} onOpen a section is open: the throttle must let its stanza get on
 * @property {(stanza: Stanza) => void} onJournaled the stanza is in the log
 */

export class Sections {
  /** On whose behalf code runs. @type {AsyncLocalStorage<Stanza>} */
  #context = new AsyncLocalStorage()
  /** @type {WeakMap<Uint8Array, Stanza>} */
  #byCiphertext = new WeakMap()
  /** The one that Baileys is at work on; it takes them one at a time. @type {Stanza | null} */
  #current = null

  /** @param {SectionHooks} hooks */
  constructor(hooks) {
    this.hooks = hooks
  }

  /** The section of the stanza on whose behalf this is called. */
  get own() { return this.#context.getStore()?.section }

  /** Before Baileys is given a stanza. @param {Stanza} stanza */
  expect(stanza) {
    for (const { content } of stanza.parts ?? []) this.#byCiphertext.set(content, stanza)
    this.#closeIfComplete(stanza) // nothing to decrypt: it is journaled before Baileys answers it
  }

  /** @param {import('baileys').SignalRepositoryWithLIDStore} repository */
  watch(repository) {
    const { decryptMessage, decryptGroupMessage, processSenderKeyDistributionMessage } = repository
    repository.decryptMessage = (options) => this.#decrypt(options.ciphertext, () => decryptMessage.call(repository, options))
    repository.decryptGroupMessage = (options) => this.#decrypt(options.msg, () => decryptGroupMessage.call(repository, options))
    repository.processSenderKeyDistributionMessage = async (options) => {
      const stanza = this.#current
      if (!stanza) return processSenderKeyDistributionMessage.call(repository, options)
      try {
        await this.#context.run(stanza, () => processSenderKeyDistributionMessage.call(repository, options))
      } finally {
        stanza.shareSettled()
        this.#closeIfComplete(stanza)
      }
    }
    return repository
  }

  /**
   * @param {Iterable<Stanza>} unsettled
   * @param {string} xml the stanza that Baileys is about to refuse, as it logs it: the reason enters the log first
   */
  abandon(unsettled, xml) {
    for (const stanza of unsettled) {
      // Exactly this one: Baileys may be decrypting the next already, and two senders may share an id (FACTS §5).
      if (!xml.includes(stanza.node.attrs.id) || binaryNodeToString(stanza.node) !== xml) continue
      stanza.abandon('given up by Baileys')
      return this.#journal(stanza) // the oldest: a copy of it waits for its turn
    }
  }

  /**
   * Key changes of whoever calls: into the own section, or the log.
   * @param {KeyChanges} changes
   * @returns {number} their place in the log, Infinity until the section closes
   */
  journalKeys(changes) {
    const { own } = this
    if (own?.open) {
      own.touch(changes)
      return Infinity
    }
    return this.hooks.gate.append({ keys: changes, bytes: sizeOf(changes) })
  }

  /**
   * @template {Uint8Array} T
   * @param {Uint8Array} ciphertext
   * @param {() => Promise<T>} run
   * @returns {Promise<T>}
   */
  async #decrypt(ciphertext, run) {
    const stanza = this.#byCiphertext.get(ciphertext)
    if (!stanza) return run()
    await yieldTurn() // a burst never yields by itself, and timers would lag by seconds (FACTS §1, point 5)
    stanza.section ??= this.hooks.gate.openSection()
    this.#current = stanza
    this.hooks.onOpen()
    try {
      const plaintext = await this.#context.run(stanza, run)
      stanza.decrypted(ciphertext, plaintext)
      return plaintext
    } catch (error) {
      stanza.failed(error)
      throw error
    } finally {
      this.#closeIfComplete(stanza)
    }
  }

  /** @param {Stanza} stanza */
  #closeIfComplete(stanza) {
    if (stanza.complete) this.#journal(stanza)
  }

  /** @param {Stanza} stanza */
  #journal(stanza) {
    const { gate } = this.hooks
    const keyStore = this.hooks.keys()
    if (this.#current === stanza) this.#current = null
    const item = stanza.toItem()
    if (stanza.section) {
      if (!stanza.section.open) return
      const keys = stanza.section.changes((type, id) => keyStore.latest(type, id))
      item.keys = keys
      item.bytes += sizeOf(keys)
      gate.closeSection(stanza.section, item)
      keyStore.renumber(keys, gate.appended)
    } else {
      gate.append(item)
    }
    this.hooks.onJournaled(stanza)
  }
}

/** @param {KeyChanges} changes */
function sizeOf(changes) {
  let bytes = 0
  for (const values of Object.values(changes)) for (const [id, value] of Object.entries(values)) bytes += id.length + (value?.length ?? 0) + 50
  return bytes
}
