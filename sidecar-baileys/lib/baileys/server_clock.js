/** WhatsApp's clock, as reported at login. */
import { uptime } from 'node:os'

export class ServerClock {
  /** The server's time when this machine's uptime was 0, milliseconds. @type {number | null} */
  #start = null

  /** @param {string | undefined} seconds the server's time now */
  set(seconds) { this.#start = Number(seconds) * 1000 - uptime() * 1000 || null }

  /**
   * Kept by the uptime, which includes a machine's sleep and which nobody can set: if somebody corrects this machine's
   * clock while we are connected, live messages must not look old.
   * @param {number} now this machine's clock, milliseconds
   * @returns {number | null} the server's clock minus this one; null before the login
   */
  offset(now) { return this.#start === null ? null : this.#start + uptime() * 1000 - now }
}
