/**
 * Linking a phone: the QR codes in turn, and the eight-character code that is typed instead of a scan.
 *
 * Baileys' own timer ends the socket when the last QR reference has expired, although a requested code lives longer,
 * and its request for a code does not wait for the server's answer. So both are done here.
 */
import { randomBytes } from 'node:crypto'
import { Boom } from '@hapi/boom'
import {
  aesEncryptCTR, buildPairingQRData, bytesToCrockford, derivePairingCodeKey, getBinaryNodeChild,
  getBinaryNodeChildBuffer, getBinaryNodeChildren, getCompanionPlatformId, jidEncode, S_WHATSAPP_NET,
} from 'baileys'

/** WhatsApp accepts the first QR code for a minute, later ones for twenty seconds (docs/whatsapp.md, "Closes"). */
const FIRST_MS = 60_000
const FOLLOWING_MS = 20_000
/** How long a typed code is valid (docs/whatsapp.md, "The passkey gate"). */
const CODE_MS = 180_000
/** From the typed code to `pair-success`; the same page. */
const FINISH_MS = 60_000
/** The name of a code that is no longer valid. */
const NO_REF = Buffer.alloc(0)
/** The server answers in a second; the worker gives up after 30. */
const ANSWER_MS = 20_000
/**
 * A system name that the server accepts; for our own name it answers 400. The browser before it and the platform id
 * match the QR code and the registration.
 */
const DISPLAY_OS = 'Linux'

export class Pairing {
  /** @type {string[]} */
  #refs = []
  #ref = ''
  #goodUntil = 0
  /** Until when somebody may still be linking by code, milliseconds; 0 if there is no code. */
  #codeUntil = 0
  #finishingUntil = 0
  /** The server's name for the code that is out; null: none was asked for. @type {Buffer | null} */
  #codeRef = null
  #stopped = false
  /** @type {NodeJS.Timeout | undefined} */
  #timer
  /** How many QR codes were shown. */
  count = 0

  /**
   * @param {object} options
   * @param {import('baileys').AuthenticationCreds} options.creds the live object
   * @param {[string, string, string]} options.browser
   * @param {number | null} options.ttlMs of every QR code, instead of WhatsApp's own lifetimes
   * @param {(method: string, params: object) => void} options.notify
   * @param {(error: Error) => void} options.end
   */
  constructor({ creds, browser, ttlMs, notify, end }) {
    this.creds = creds
    this.browser = browser
    this.ttlMs = ttlMs
    this.notify = notify
    this.end = end
  }

  /** The phone and this device are agreeing on a secret. */
  get finishing() { return Date.now() < this.#finishingUntil }

  /** The server offers references, each for one QR code. @param {import('baileys').BinaryNode} node `pair-device` in its iq */
  offer(node) {
    this.#refs = getBinaryNodeChildren(getBinaryNodeChild(node, 'pair-device'), 'ref')
      .map(({ content }) => Buffer.from(/** @type {Uint8Array} */ (content)).toString())
    this.#next()
  }

  /** Show the same reference with the account's current secret, for the rest of its time. */
  renew() {
    if (this.#goodUntil > Date.now()) this.#tell(true)
  }

  /** Show nothing any more: a person is using the passkey, the phone has linked, or the socket has ended. */
  stop() {
    this.#stopped = true
    clearTimeout(this.#timer)
    this.#refs = []
    this.#goodUntil = 0
  }

  /**
   * A notification about the pairing code. If somebody has typed the code, what follows has its own time-out. WhatsApp
   * may also ask for another code (`refresh_code`): then the current one is dead. After `stop` this starts no timer: it
   * would end the socket under the person.
   * @param {import('baileys').BinaryNode} node
   * @returns {boolean} whether it is for Baileys: the phone's answer to the code that is out
   */
  aboutCode(node) {
    const registration = getBinaryNodeChild(node, 'link_code_companion_reg')
    const ref = getBinaryNodeChildBuffer(registration, 'link_code_pairing_ref')
    const current = this.#codeRef !== null && ref !== undefined && this.#codeRef.equals(ref)
    if (registration?.attrs.stage === 'refresh_code') {
      if (current && !this.#stopped) this.#retireCode(registration.attrs.force_manual_refresh === 'true')
      return false
    }
    if (this.#codeRef !== null && !current) return false // for a code that is no longer valid
    this.#finishingUntil = Date.now() + FINISH_MS
    if (this.#codeUntil) this.#codeUntil = Math.max(this.#codeUntil, Date.now() + FINISH_MS)
    return true
  }

  /** @param {boolean} byHand a person must ask for the next one */
  #retireCode(byHand) {
    this.#codeRef = NO_REF
    this.#finishingUntil = 0
    this.#codeUntil = Date.now() + FINISH_MS // for the next one
    if (!this.#goodUntil) {
      clearTimeout(this.#timer)
      this.#wait(FINISH_MS)
    }
    this.notify('pairing_code_retired', { by_hand: byHand })
  }

  /**
   * Request a code to type on the phone. Resolves when the server has accepted it.
   * @param {any} sock
   * @param {string} phone digits with the country code
   * @returns {Promise<{code: string, ttl_ms: number}>}
   * @throws {Boom} as Baileys' `query` does; a refusal has the server's code as `data`
   */
  async requestCode(sock, phone) {
    const { creds } = this
    const { me, pairingCode } = creds
    const before = this.#codeUntil
    const code = bytesToCrockford(randomBytes(5))
    // Baileys reads both when the phone's half arrives, which may be at once.
    const jid = jidEncode(phone, 's.whatsapp.net')
    Object.assign(creds, { pairingCode: code, me: { id: jid, name: '~' } })
    const askedAt = Date.now()
    this.#codeUntil = Math.max(before, askedAt + ANSWER_MS) // the last QR code may expire meanwhile
    try {
      const answer = await sock.query(await this.#hello(sock.generateMessageTag(), jid, code), ANSWER_MS)
      const registration = getBinaryNodeChild(answer, 'link_code_companion_reg')
      const ref = getBinaryNodeChildBuffer(registration, 'link_code_pairing_ref')
      if (!ref) throw new Boom('the answer has no reference')
      this.#codeRef = Buffer.from(ref)
    } catch (error) {
      Object.assign(creds, { me, pairingCode })
      this.#codeUntil = before
      throw error
    }
    sock.ev.emit('creds.update', { me: creds.me, pairingCode: code })
    this.#codeUntil = askedAt + CODE_MS
    return { code, ttl_ms: this.#codeUntil - Date.now() }
  }

  /** @param {string} id @param {string} jid @param {string} code @returns {Promise<import('baileys').BinaryNode>} */
  async #hello(id, jid, code) {
    const { creds, browser } = this
    const [salt, iv] = [randomBytes(32), randomBytes(16)]
    const key = await derivePairingCodeKey(code, salt)
    const sealed = aesEncryptCTR(creds.pairingEphemeralKeyPair.public, key, iv)
    const leaf = (/** @type {string} */ tag, /** @type {Uint8Array | string} */ content) => ({ tag, attrs: {}, content })
    return {
      tag: 'iq',
      attrs: { to: S_WHATSAPP_NET, type: 'set', id, xmlns: 'md' },
      content: [{
        tag: 'link_code_companion_reg',
        attrs: { jid, stage: 'companion_hello', should_show_push_notification: 'true' },
        content: [
          leaf('link_code_pairing_wrapped_companion_ephemeral_pub', Buffer.concat([salt, iv, sealed])),
          leaf('companion_server_auth_key_pub', creds.noiseKey.public),
          leaf('companion_platform_id', getCompanionPlatformId(browser)),
          leaf('companion_platform_display', `${browser[1]} (${DISPLAY_OS})`),
          leaf('link_code_pairing_nonce', Buffer.of(0)),
        ],
      }],
    }
  }

  #next() {
    clearTimeout(this.#timer)
    const ref = this.#refs.shift()
    if (ref === undefined) return this.#ranOut()
    this.count += 1
    const ttl = this.ttlMs ?? (this.count === 1 ? FIRST_MS : FOLLOWING_MS)
    this.#ref = ref
    this.#goodUntil = Date.now() + ttl
    this.#tell()
    this.#wait(ttl)
  }

  /** A code stays valid without a QR code beside it. */
  #ranOut() {
    const left = this.#codeUntil - Date.now()
    if (left <= 0) return this.end(new Boom('QR refs attempts ended', { statusCode: 408 }))
    if (this.#goodUntil) this.notify('qr', { qr: null, ttl_ms: left, retired: false })
    this.#goodUntil = 0
    this.#wait(left)
  }

  /** @param {number} ms */
  #wait(ms) {
    this.#timer = setTimeout(() => this.#next(), ms)
  }

  /** @param {boolean} [retired] it takes the place of one that WhatsApp has retired, perhaps at the scan */
  #tell(retired = false) {
    const { noiseKey, signedIdentityKey, advSecretKey } = this.creds
    const qr = buildPairingQRData(
      this.#ref, base64(noiseKey.public), base64(signedIdentityKey.public), advSecretKey, /** @type {any} */ (this.browser),
    )
    this.notify('qr', { qr, ttl_ms: this.#goodUntil - Date.now(), retired })
  }
}

/** @param {Uint8Array} bytes */
const base64 = (bytes) => Buffer.from(bytes).toString('base64')
