/**
 * The whole state of the virtual phone and its server, in one place; the other modules act on it.
 *
 * Owns: the account, the linked device, the offline queue, the record of what the client did, the present connection.
 */
import { randomBytes } from 'node:crypto'
import { EventEmitter, once } from 'node:events'
import { Authenticator } from './authenticator.js'
import { makeSigningKey } from './curve.js'
import { ControlError } from './errors.js'
import { Faults } from './faults.js'
import { Journal } from './journal.js'
import { MediaHost } from './media-host.js'
import { People } from './people.js'
import { OfflineQueue } from './queue.js'
import { Realism } from './realism.js'

const KEEP_SENT = 100_000 // messages that can still be forwarded or sent again

/** @typedef {import('./connection.js').Connection} Connection */
/** @typedef {import('./send.js').SentMessage} SentMessage */

export class Phone {
  changes = new EventEmitter().setMaxListeners(0)
  root = makeSigningKey()
  foreignRoot = makeSigningKey()
  serverStatic = makeSigningKey()
  people = new People('Olivia Owner')
  /** @type {Map<string, import('./people.js').Group>} */
  groups = new Map()
  faults = new Faults()
  realism = new Realism()
  queue = new OfflineQueue()
  media = new MediaHost()
  log = new Journal(() => this.changes.emit('change'))
  receipts = new Journal(() => this.changes.emit('change'))
  /** @type {import('./companion.js').Companion | null} the linked device */
  companion = null
  /** @type {Connection | null} the client's socket after a login */
  online = null
  /** @type {Set<Connection>} every open socket */
  connections = new Set()
  /** @type {Map<string, SentMessage>} */
  sent = new Map()
  pairings = 0
  logins = 0
  messagesSent = 0
  holdBacklog = false
  historyAuto = true
  business = true
  /** names of the media hosts that the client is told, best first */
  mediaHosts = ['media-fra3-1.cdn.whatsapp.net', 'mmg.whatsapp.net']
  passkey = new Authenticator()
  /** @type {Record<string, string>} how the next attempt at the passkey gate goes */
  passkeyVariant = {}
  /** @type {import('./passkey.js').Gate | null} */
  gate = null
  /** the account is restricted until then, Unix milliseconds; each try to link meanwhile doubles what is left */
  restrictedUntil = 0
  /** @type {number[]} monotonic times of the logins of the last minute */
  recentLogins = []
  /** what a device needs to read the collections of the app state @type {import('baileys').proto.Message.IAppStateSyncKey} */
  appStateKey = {
    keyId: { keyId: Buffer.from([0, 1, ...randomBytes(4)]) },
    keyData: { keyData: randomBytes(32), fingerprint: { rawId: 1, currentIndex: 1, deviceIndexes: [0, 1] }, timestamp: Date.now() }
  }
  /** @type {((open: boolean) => Promise<void>) | null} opens or closes the socket port; set by the server */
  listening = null

  /** Sends one after another: the order of encryption is the order on the wire. @type {Promise<unknown>} */
  #tail = Promise.resolve()

  get owner() {
    return this.people.owner
  }

  get live() {
    return this.online?.state === 'live'
  }

  /** @template T @param {() => Promise<T>} job @returns {Promise<T>} */
  inOrder(job) {
    const result = this.#tail.then(job)
    this.#tail = result.catch(() => {})
    return result
  }

  /** @param {SentMessage} message */
  remember(message) {
    this.sent.set(sentKey(message.chat, message.participant, message.id), message)
    if (this.sent.size > KEEP_SENT) this.sent.delete(/** @type {string} */ (this.sent.keys().next().value))
  }

  /**
   * Waits until the predicate gives something, looking again at each change.
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

  /** @param {string} id */
  group(id) {
    const group = this.groups.get(id)
    if (!group) throw new ControlError(404, `no group ${id}`)
    return group
  }

  state() {
    const { companion, online } = this
    const paired = Boolean(companion?.jid)
    return {
      paired, connected: this.live, logging_in: Boolean(online) && !this.live,
      me: paired && companion ? { name: this.owner.name, id: companion.jid, lid: companion.lid, device: companion.device } : null,
      owner: this.owner, logins: this.logins, offline_queue: this.queue.size,
      qr_waiting: [...this.connections].some((one) => one.state === 'qr'), prekeys: companion?.preKeys.size ?? 0,
      people: this.people.all.length, groups: this.groups.size, faults: this.faults.active, messages_sent: this.messagesSent
    }
  }
}

/** @param {string} chat @param {string | undefined} participant @param {string} id */
export const sentKey = (chat, participant, id) => `${chat}|${(participant ?? '').replace(/:\d+@/, '@')}|${id}`
