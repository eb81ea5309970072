/** One linked device of an account: its keys, its queue on the server, and its socket while it is logged in. */
import { OfflineQueue } from './queue.js'

export class Line {
  queue = new OfflineQueue()
  /** @type {import('./connection.js').Connection | null} */
  online = null

  /** @param {import('./phone.js').Phone} phone @param {import('./companion.js').Companion} companion */
  constructor(phone, companion) {
    this.phone = phone
    this.companion = companion
  }

  /** Whether it is logged in and past its backlog. */
  get live() {
    return this.online?.state === 'live'
  }

  toJSON() {
    const { companion: { device, jid, lid }, online, live, queue } = this
    return { device, id: jid, lid, connected: live, logging_in: Boolean(online) && !live, offline_queue: queue.size }
  }
}
