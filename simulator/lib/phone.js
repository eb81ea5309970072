/**
 * One account: its owner, its linked devices, and the record of what they answered. `World` has what accounts share.
 *
 * A call that names no device means the one that was linked last.
 */
import { AppState } from './app-state.js'
import { Authenticator } from './authenticator.js'
import { ControlError } from './errors.js'
import { Journal } from './journal.js'
import { Line } from './line.js'
import { People } from './people.js'
import { OfflineQueue } from './queue.js'
import { World } from './world.js'

const KEEP_SENT = 100_000 // messages that can still be forwarded or sent again

/** @typedef {import('./connection.js').Connection} Connection */
/** @typedef {import('./send.js').SentMessage} SentMessage */

export class Phone {
  /** the linked devices, in the order of their linking @type {Line[]} */
  lines = []
  receipts = new Journal(() => this.changes.emit('change'))
  logins = 0
  messagesSent = 0
  holdBacklog = false
  historyAuto = true
  business = true
  passkey = new Authenticator()
  /** @type {Record<string, string>} how the next attempt at the passkey gate goes */
  passkeyVariant = {}
  /** @type {import('./passkey.js').Gate | null} */
  gate = null
  /** the account is restricted until then, Unix milliseconds; each try to link before that doubles the rest */
  restrictedUntil = 0
  /** @type {number[]} monotonic times of the logins of the last minute */
  recentLogins = []
  appState = new AppState()
  /** of no device */
  #empty = new OfflineQueue()

  /** @param {World} [world] @param {{name?: string, phone?: string, lid?: string}} [owner] */
  constructor(world = new World(), { name = 'Olivia Owner', ...address } = {}) {
    this.world = world
    this.people = new People(world.registry, name, address)
    world.phones.push(this)
  }

  get owner() { return this.people.owner }
  get changes() { return this.world.changes }
  get groups() { return this.world.groups }
  get faults() { return this.world.faults }
  get realism() { return this.world.realism }
  get media() { return this.world.media }
  get log() { return this.world.log }
  get connections() { return this.world.connections }
  get sent() { return this.world.sent }

  /** @param {number | string} [device] its number; undefined: the last that was linked @returns {Line | undefined} */
  line(device) {
    if (device === undefined) return this.lines.at(-1)
    const line = this.lines.find(({ companion }) => companion.device === Number(device))
    if (!line) throw new ControlError(404, `no linked device ${device}`)
    return line
  }

  get companion() { return this.line()?.companion ?? null }
  get online() { return this.line()?.online ?? null }
  get live() { return this.line()?.live ?? false }
  get queue() { return this.line()?.queue ?? this.#empty }

  /** A device is linked from now on. @param {import('./companion.js').Companion} companion */
  link(companion) {
    this.lines.push(new Line(this, companion))
    this.changes.emit('change')
  }

  /** It is linked no longer. @param {Line | null} line */
  unlink(line) {
    this.lines = this.lines.filter((one) => one !== line)
    this.changes.emit('change')
  }

  /** @template T @param {() => Promise<T>} job @returns {Promise<T>} */
  inOrder(job) {
    return this.world.inOrder(job)
  }

  /** @param {SentMessage} message */
  remember(message) {
    this.sent.set(sentKey(message.chat, message.participant, message.id), message)
    if (this.sent.size > KEEP_SENT) this.sent.delete(/** @type {string} */ (this.sent.keys().next().value))
  }

  /** @template T @param {() => T | undefined | false | null} predicate @param {number} timeoutMs @returns {Promise<T | undefined>} */
  until(predicate, timeoutMs) {
    return this.world.until(predicate, timeoutMs)
  }

  /** @param {string} id */
  group(id) {
    const group = this.groups.get(id)
    if (!group) throw new ControlError(404, `no group ${id}`)
    return group
  }

  /** @param {number | string} [device] */
  state(device) {
    const line = this.line(device)
    const { companion, online, live = false } = line ?? {}
    return {
      paired: Boolean(line), connected: live, logging_in: Boolean(online) && !live,
      me: companion ? { name: this.owner.name, id: companion.jid, lid: companion.lid, device: companion.device } : null,
      owner: this.owner, devices: this.lines, logins: this.logins, offline_queue: line?.queue.size ?? 0,
      qr_waiting: [...this.connections].some((one) => one.state === 'qr'), prekeys: companion?.preKeys.size ?? 0,
      people: this.people.all.length, groups: this.groups.size, faults: this.faults.active, messages_sent: this.messagesSent
    }
  }
}

/** @param {string} chat @param {string | undefined} participant @param {string} id */
export const sentKey = (chat, participant, id) => `${chat}|${(participant ?? '').replace(/:\d+@/, '@')}|${id}`
