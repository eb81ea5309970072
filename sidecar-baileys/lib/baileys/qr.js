/** The QR code on show, and how long it is good for. What it says of the account is the account's affair (socket.js). */

/** WhatsApp takes the first code for a minute, the following ones for twenty seconds (FACTS §2). */
const FIRST_MS = 60_000
const FOLLOWING_MS = 20_000

export class Qr {
  #code = ''
  #goodUntil = 0
  count = 0

  /** @param {{ttlMs: number | null, notify: (method: string, params: object) => void}} options `ttlMs`: instead of WhatsApp's own */
  constructor({ ttlMs, notify }) {
    this.ttlMs = ttlMs
    this.notify = notify
  }

  /** @param {string} code as Baileys made it @param {string} secret the account's, as it is now: Baileys read it when the connection began */
  show(code, secret) {
    this.count += 1
    const ttl = this.ttlMs ?? (this.count === 1 ? FIRST_MS : FOLLOWING_MS)
    this.#goodUntil = Date.now() + ttl
    this.#tell(code, secret, ttl)
  }

  /** The same code, for the rest of its time, with another secret. @param {string} secret */
  renew(secret) {
    const left = this.#goodUntil - Date.now()
    if (left > 0) this.#tell(this.#code, secret, left)
  }

  /** @param {string} code @param {string} secret @param {number} ttl */
  #tell(code, secret, ttl) {
    this.#code = code.split(',').with(-2, secret).join(',') // …#reference,noise key,identity key,secret,platform
    this.notify('qr', { qr: this.#code, ttl_ms: ttl })
  }
}
