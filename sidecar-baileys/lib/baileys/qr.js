/** The QR code on show, and how long it is valid. */

/** WhatsApp takes the first code for a minute, later ones for twenty seconds (docs/whatsapp.md, "Closes"). */
const FIRST_MS = 60_000
const FOLLOWING_MS = 20_000

export class Qr {
  #code = ''
  #goodUntil = 0
  count = 0

  /**
   * @param {object} options
   * @param {number | null} options.ttlMs instead of WhatsApp's own lifetimes
   * @param {(method: string, params: object) => void} options.notify
   */
  constructor({ ttlMs, notify }) {
    this.ttlMs = ttlMs
    this.notify = notify
  }

  /**
   * @param {string} code as Baileys made it, with the secret that the account had when the connection began
   * @param {string} secret the account's present one
   */
  show(code, secret) {
    this.count += 1
    const ttl = this.ttlMs ?? (this.count === 1 ? FIRST_MS : FOLLOWING_MS)
    this.#goodUntil = Date.now() + ttl
    this.#tell(code, secret, ttl)
  }

  /** Show the same code with another secret, for the rest of its time. @param {string} secret */
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
