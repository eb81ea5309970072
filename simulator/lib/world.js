/**
 * What all accounts on this server share: its keys and sockets, people, groups and files, sent messages, and faults.
 *
 * A `Phone` is one account. Most servers have one; `POST /phones` makes another.
 */
import { EventEmitter, once } from 'node:events'
import { makeSigningKey } from './curve.js'
import { Faults } from './faults.js'
import { Journal } from './journal.js'
import { MediaHost } from './media-host.js'
import { Registry } from './people.js'
import { Realism } from './realism.js'

export class World {
  changes = new EventEmitter().setMaxListeners(0)
  root = makeSigningKey()
  foreignRoot = makeSigningKey()
  serverStatic = makeSigningKey()
  /** @type {import('./phone.js').Phone[]} */
  phones = []
  registry = new Registry()
  /** @type {Map<string, import('./people.js').Group>} */
  groups = new Map()
  faults = new Faults()
  realism = new Realism()
  media = new MediaHost()
  log = new Journal(() => this.changes.emit('change'))
  /** every open socket @type {Set<import('./connection.js').Connection>} */
  connections = new Set()
  /** @type {Map<string, import('./send.js').SentMessage>} */
  sent = new Map()
  /** devices that were linked so far, of all accounts */
  pairings = 0
  /** names of the media hosts that clients get, best first */
  mediaHosts = ['media-fra3-1.cdn.whatsapp.net', 'mmg.whatsapp.net']
  /** @type {((open: boolean) => Promise<void>) | null} opens or closes the socket port; set by the server */
  listening = null

  /** Sends one after another: the order of encryption is the order on the wire. @type {Promise<unknown>} */
  #tail = Promise.resolve()

  /** Every linked device of every account. */
  get lines() {
    return this.phones.flatMap(({ lines }) => lines)
  }

  /** @template T @param {() => Promise<T>} job @returns {Promise<T>} */
  inOrder(job) {
    const result = this.#tail.then(job)
    this.#tail = result.catch(() => {})
    return result
  }

  /**
   * Waits until the predicate returns something, checking again at each change.
   * @template T @param {() => T | undefined | false | null} predicate @param {number} timeoutMs
   * @returns {Promise<T | undefined>} undefined when the time is up
   */
  async until(predicate, timeoutMs) {
    const signal = AbortSignal.timeout(timeoutMs)
    for (;;) {
      const found = predicate()
      if (found) return found
      try {
        await once(this.changes, 'change', { signal })
      } catch {
        return undefined
      }
    }
  }
}
