/**
 * One section of the log per message stanza: its plaintext and the keys that its decryption changed, as one item.
 *
 * Wraps Baileys' signal repository, the only place that sees a plaintext before the receipt leaves (docs/whatsapp.md,
 * "Holding frames").
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { setImmediate as yieldTurn } from 'node:timers/promises'
import { binaryNodeToString } from 'baileys'
import { LRUCache } from 'lru-cache'
import { atMost } from './caches.js'
import { withinBudget } from './key_steps.js'
import { RetryBudget } from './retry_budget.js'
import { isOldCounter } from './undecryptable.js'

/** An empty message, padded: Baileys takes it for a good one, and receipts it. */
const NOTHING = Uint8Array.of(1)
/** The failure of a suspect. */
const UNREAD = 'not decrypted: it has ended or stalled the sidecar before'
/** Baileys requests what it cannot read soon after it got it. */
const HANDED_OVER_MAX = 1_000

/**
 * @typedef {import('../log/gate.js').KeyChanges} KeyChanges
 * @typedef {import('./stanza.js').Stanza} Stanza
 * @typedef {object} SectionHooks
 * @property {import('../log/gate.js').Gate} gate
 * @property {() => import('../log/keys.js').KeyStore} keys
 * @property {(hashes: string[]) => Promise<string[]>} known which of these were committed before; before it rejects, it
 *   shuts the gate
 * @property {import('../log/mark.js').Mark} mark
 * @property {() => void} onOpen a section has opened: its decryption may await an answer
 * @property {(stanza: Stanza) => void} onJournaled the stanza is in the log
 */

export class Sections {
  /** The stanza on whose behalf code runs. @type {AsyncLocalStorage<Stanza>} */
  #context = new AsyncLocalStorage()
  /** @type {WeakMap<Uint8Array, Stanza>} */
  #byCiphertext = new WeakMap()
  /** The stanza that Baileys is decrypting; it takes one at a time. @type {Stanza | null} */
  #current = null

  /** How often `#knows` queries. */
  #lookups = new RetryBudget()
  /** The stanza that Baileys decrypted last; it answers it before it takes the next. @type {Stanza | null} */
  #last = null
  /**
   * What is queried about stanzas that Baileys got lately, by their id: not the whole stanzas, which may be large. Of
   * several with one id, one whose chat may be stored.
   * @type {LRUCache<string, Pick<Stanza, 'name' | 'author' | 'stored' | 'wanted' | 'hopeless'>>}
   */
  #handedOver = new LRUCache(atMost(HANDED_OVER_MAX))

  /** @param {SectionHooks} hooks */
  constructor(hooks) {
    this.hooks = hooks
  }

  /** The section of the stanza on whose behalf the caller runs. */
  get own() { return this.#context.getStore()?.section }

  /** The stanza with this id that Baileys is about to ask for: senders choose ids, so several may have it. @param {string} id */
  askedFor(id) {
    return this.#last?.node.attrs.id === id ? this.#last : this.#handedOver.get(id)
  }

  /** Call this before Baileys gets the stanza. @param {Stanza} stanza */
  expect(stanza) {
    for (const { content } of stanza.parts ?? []) this.#byCiphertext.set(content, stanza)
    const { id } = stanza.node.attrs
    if (id && (stanza.stored || !this.#handedOver.get(id)?.stored)) {
      const { name, author, stored, wanted, hopeless } = stanza
      this.#handedOver.set(id, { name, author, stored, wanted, hopeless })
    }
    if (stanza.treatment === 'unread') stanza.abandon(UNREAD)
    if (stanza.complete) this.#journal(stanza) // nothing to decrypt: journal it before Baileys answers it
    else stanza.nameAuthor()
  }

  /** @param {import('baileys').SignalRepositoryWithLIDStore} repository */
  watch(repository) {
    const { decryptMessage, decryptGroupMessage, processSenderKeyDistributionMessage } = repository
    repository.decryptMessage = (options) =>
      this.#decrypt(options.ciphertext, () => decryptMessage.call(repository, options))
    repository.decryptGroupMessage = (options) =>
      this.#decrypt(options.msg, () => decryptGroupMessage.call(repository, options))
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
   * Journal a stanza that Baileys gave up, with the reason, before Baileys refuses it.
   * @param {Iterable<Stanza>} inWork that Baileys got and that are not in the log
   * @param {string} xml the stanza as Baileys logs it
   */
  abandon(inWork, xml) {
    for (const stanza of inWork) {
      // Compare all of it: two senders may share an id, and Baileys may be at the next (docs/whatsapp.md, "Shapes").
      if (!xml.includes(stanza.node.attrs.id) || binaryNodeToString(stanza.node) !== xml) continue
      stanza.abandon('given up by Baileys')
      return this.#journal(stanza)
    }
  }

  /**
   * Put the caller's key changes into its stanza's section, or into the log.
   * @param {KeyChanges} changes
   * @returns {number} their number in the log; Infinity while the section is open
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
    await yieldTurn() // a burst does not yield, and timers would lag by seconds (docs/whatsapp.md, "Holding frames")
    const { failure } = this.hooks.gate
    if (failure) throw failure // nothing of it would become durable, and the mark is another connection's
    stanza.section ??= this.hooks.gate.openSection()
    this.#current = this.#last = stanza
    this.hooks.onOpen()
    try {
      if (stanza.hash) this.hooks.mark.set(stanza.hash)
      const plaintext = await this.#context.run(stanza, () => withinBudget(stanza.keySteps, run))
      stanza.decrypted(ciphertext, plaintext)
      return plaintext
    } catch (error) {
      if (await this.#knows(stanza, ciphertext)) {
        stanza.decryptedBefore()
        return /** @type {T} */ (NOTHING)
      }
      stanza.failed(error)
      if (!isOldCounter(error)) throw error
      if (!stanza.stored) return /** @type {T} */ (NOTHING)
      // No such ciphertext was ever decrypted, so its key was dropped: another copy helps. Baileys would not request
      // one if the error had its usual text.
      throw new Error('the key of this message is gone', { cause: error })
    } finally {
      this.#closeIfComplete(stanza)
    }
  }

  /**
   * Whether this is a live copy of what an earlier process committed. Copies in the backlog never get this far. A flood
   * of stanzas that are never stored is worth no query, and one author's garbage is worth a limited number: during the
   * query Baileys decrypts nothing else. Beyond that, a copy counts as unknown, and is requested.
   * @param {Stanza} stanza @param {Uint8Array} ciphertext
   */
  async #knows(stanza, ciphertext) {
    const hash = stanza.parts?.find(({ content }) => content === ciphertext)?.hash
    if (hash === undefined || stanza.offline || !this.#lookups.allows(stanza)) return false
    return (await this.hooks.known([hash])).includes(hash)
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
    stanza.forgetAuthor()
    const item = stanza.redelivery ? { events: [], bytes: 0 } : stanza.toItem()
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
    this.hooks.mark.journaled(stanza.hash, gate.appended)
    this.hooks.onJournaled(stanza)
  }
}

/** @param {KeyChanges} changes */
function sizeOf(changes) {
  let bytes = 0
  for (const values of Object.values(changes)) {
    for (const [id, value] of Object.entries(values)) bytes += id.length + (value?.length ?? 0) + 50
  }
  return bytes
}
