/**
 * Linking behind a passkey (docs/whatsapp.md, "The passkey gate"): the companion's side of the exchange that WhatsApp
 * starts after the scan, or after the typed code, instead of linking.
 *
 * Keeps the order of the steps and their secrets, all in memory: the attempt ends with the socket. The worker decides
 * when to take the next step, how long to wait and what to tell people.
 */
import { randomBytes } from 'node:crypto'
import { Boom } from '@hapi/boom'
import { Curve, getBinaryNodeChild, proto, S_WHATSAPP_NET } from 'baileys'
import { comparisonCode, KEY_BYTES, makePrologue, sealPairingRequest } from './passkey_crypto.js'

const REQUEST = 'passkey_prologue_request'
const CONTINUATION = 'crsc_continuation'
/** Notifications that Baileys does not know, and with a QR code cannot even ack: it has no name for the account yet. */
export const PASSKEY_NOTIFICATIONS = new Set([REQUEST, CONTINUATION])
/** Both forms of the server's address that Baileys decodes from the wire. */
const SERVER = new Set(['s.whatsapp.net', '@s.whatsapp.net'])
/** The nack of WhatsApp's own client for a stanza that it cannot read. */
const UNREADABLE = 487
const OPTIONS_BYTES_MAX = 4096
const IV_BYTES = 12
/** The server answers in a second. */
const ANSWER_MS = 20_000
const { PlatformType } = proto.DeviceProps

/** @typedef {import('baileys').BinaryNode} BinaryNode */

export class Passkey {
  /** WhatsApp has asked for the passkey on this socket. */
  active = false
  /** Committed to before the phone shows anything. @type {import('./passkey_crypto.js').Half | null} */
  #half = null
  /** `prove` is running. */
  #proving = false
  /** @type {{publicKey: Uint8Array, nonce: Uint8Array} | null} */
  #phone = null
  #revealed = false

  /**
   * @param {object} options
   * @param {import('baileys').AuthenticationCreds} options.creds the live object
   * @param {[string, string, string]} options.browser
   * @param {(node: BinaryNode, timeoutMs: number) => Promise<BinaryNode>} options.query as Baileys' own
   * @param {(method: string, params: object) => void} options.notify
   * @param {() => void} options.onRequest the codes on show must wait
   */
  constructor({ creds, browser, query, notify, onRequest }) {
    this.creds = creds
    this.deviceType = platformType(browser)
    this.query = query
    this.notify = notify
    this.onRequest = onRequest
  }

  /**
   * One of `PASSKEY_NOTIFICATIONS` has arrived.
   * @param {BinaryNode} node
   * @returns {number | undefined} the error that its ack must name
   */
  take(node) {
    if (!SERVER.has(node.attrs.from)) return undefined
    return node.attrs.type === REQUEST ? this.#requested(node) : this.#continued(node)
  }

  /** Step 1. @param {BinaryNode} node */
  #requested(node) {
    const child = getBinaryNodeChild(node, 'passkey_request_options')
    const options = child ? readOptions(child.content) : null
    if (!this.#half) { // a later one changes nothing: the attempt is running
      this.active = true
      this.onRequest()
      this.notify('passkey_requested', { options })
    }
    return child && !options ? UNREADABLE : undefined
  }

  /** Step 2: the options, when the request had none that can be read. @returns {Promise<{options: object | null}>} */
  async options() {
    return { options: readOptions((await this.#get('passkey_request_options')).content) }
  }

  /**
   * Steps 4 and 5: what the passkey's owner signed, and our commitment. The phone's half follows as a notification.
   * No `pairing_handoff_proof`: with one, WhatsApp's clients skip the comparison of codes.
   * @param {{rawId: string}} assertion
   * @throws {Boom} as Baileys' `query` does; a refusal has the server's code as `data`
   */
  async prove(assertion) {
    if (!this.active || this.#half || this.#proving) throw new Boom('no passkey is asked for', { statusCode: 409 })
    this.#proving = true
    try {
      await this.#commit(assertion)
    } finally {
      this.#proving = false
    }
  }

  /** @param {{rawId: string}} assertion */
  async #commit(assertion) {
    const ref = Buffer.from(/** @type {Uint8Array} */ ((await this.#get('ref')).content)).toString()
    const { deviceType } = this
    const half = { ephemeral: Curve.generateKeyPair(), nonce: randomBytes(KEY_BYTES), deviceType, ref }
    this.#half = half
    await this.#ask('set', {
      tag: 'passkey_prologue',
      attrs: {},
      content: [
        { tag: 'credential_id', attrs: {}, content: Buffer.from(assertion.rawId, 'base64url') },
        { tag: 'webauthn_assertion', attrs: {}, content: Buffer.from(JSON.stringify(assertion)) },
        { tag: 'prologue_payload', attrs: {}, content: makePrologue(half) },
      ],
    })
  }

  /**
   * Step 6: the phone's half. One that comes before our commitment is worthless, and a second one changes nothing.
   * @param {BinaryNode} node
   */
  #continued(node) {
    const phone = readPhone(node)
    if (!this.#half || this.#phone) return phone ? undefined : UNREADABLE
    if (!phone) {
      this.notify('passkey_failed', { step: CONTINUATION, status: null })
      return UNREADABLE
    }
    this.#phone = phone
    void this.#reveal(this.#half.nonce, phone)
    return undefined
  }

  /** Step 7: our nonce, and with it the code on both screens. @param {Uint8Array} nonce @param {{publicKey: Uint8Array, nonce: Uint8Array}} phone */
  async #reveal(nonce, phone) {
    try {
      await this.#ask('set', { tag: 'companion_nonce', attrs: {}, content: nonce })
    } catch (error) {
      return this.notify('passkey_failed', { step: 'companion_nonce', status: refusal(error) })
    }
    this.#revealed = true
    this.notify('passkey_code', { code: comparisonCode(nonce, phone) })
  }

  /**
   * Step 8, once a person has compared the codes. `pair-success` follows, sealed with a new secret: Baileys checks it
   * when it arrives, which may be at once.
   * @throws {Boom} as `prove`; if WhatsApp refuses, the old secret is restored. Without an answer it may have been
   * accepted.
   */
  async confirm() {
    const { creds } = this
    const [half, phone] = [this.#half, this.#phone]
    if (!half || !phone || !this.#revealed) throw new Boom('no code is shown', { statusCode: 409 })
    this.#revealed = false // once
    const before = creds.advSecretKey
    const advSecret = randomBytes(KEY_BYTES)
    const keys = { noise: creds.noiseKey.public, identity: creds.signedIdentityKey.public, advSecret }
    const content = sealPairingRequest(half, phone.publicKey, keys, randomBytes(IV_BYTES))
    creds.advSecretKey = advSecret.toString('base64') // stored with the account, at `pair-success`
    try {
      await this.#ask('set', { tag: 'encrypted_pairing_request', attrs: {}, content })
    } catch (error) {
      if (refusal(error) !== null && !creds.account) creds.advSecretKey = before
      throw error
    }
  }

  /** @param {string} tag @returns {Promise<BinaryNode>} the child of this tag in the answer */
  async #get(tag) {
    const child = getBinaryNodeChild(await this.#ask('get', { tag, attrs: {} }), tag)
    if (!(child?.content instanceof Uint8Array)) throw new Boom(`the answer has no ${tag}`, { statusCode: 502 })
    return child
  }

  /** @param {'get' | 'set'} type @param {BinaryNode} node */
  async #ask(type, node) {
    const attrs = { to: S_WHATSAPP_NET, type, xmlns: 'md' }
    const answer = await this.query(/** @type {any} */ ({ tag: 'iq', attrs, content: [node] }), ANSWER_MS)
    if (!answer) throw new Boom('no answer', { statusCode: 408 })
    return answer
  }
}

/** The server's own code of a refused query; null if it did not refuse. @param {any} error @returns {number | null} */
const refusal = (error) => (Number.isInteger(error?.data) ? error.data : null)

/** As Baileys registers it (its `getPlatformType` is not exported). @param {[string, string, string]} browser */
export function platformType([, browser]) {
  const name = browser.toUpperCase()
  if (name === 'ANDROID') return PlatformType.ANDROID_PHONE
  return PlatformType[/** @type {keyof typeof PlatformType} */ (name)] || PlatformType.CHROME
}

/** WebAuthn's options as JSON. @param {unknown} content @returns {object | null} null if it is no JSON object */
function readOptions(content) {
  if (!(content instanceof Uint8Array || typeof content === 'string')) return null
  const bytes = Buffer.from(content)
  if (bytes.length > OPTIONS_BYTES_MAX) return null
  try {
    const options = JSON.parse(bytes.toString())
    return options && typeof options === 'object' && !Array.isArray(options) ? options : null
  } catch {
    return null
  }
}

/** The phone's ephemeral key and its nonce. @param {BinaryNode} node */
function readPhone({ content }) {
  const [child] = Array.isArray(content) ? content : []
  if (child?.tag !== 'primary_ephemeral_identity' || !(child.content instanceof Uint8Array)) return null
  try {
    const { publicKey, nonce } = proto.PrimaryEphemeralIdentity.decode(child.content)
    return publicKey?.length === KEY_BYTES && nonce?.length === KEY_BYTES ? { publicKey, nonce } : null
  } catch {
    return null
  }
}
