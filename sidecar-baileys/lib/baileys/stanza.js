/** One incoming message stanza, from its arrival until each part is decrypted or given up. Sends and stores nothing. */
import { createHash } from 'node:crypto'
import { BufferJSON, decodeMessageNode, proto, unpadRandomMax16 } from 'baileys'
import { NOTHING_TO_DECRYPT } from './internals.js'
import { KeySteps } from './key_steps.js'
import { CHAT_OF_TWO } from './receipt.js'
import { messageToJson } from './serial.js'

const DECRYPTABLE = new Set(['skmsg', 'pkmsg', 'msg'])
/** Longest JSON of one stanza. A line of the wire holds 32 MiB, and the section's keys travel in it too. */
const JSON_BYTES_MAX = 24 * 1024 * 1024
/** Plaintext size from which the JSON is measured. JSON can be 50 times as large: a byte of an enum becomes a name. */
const MEASURED_FROM = 256 * 1024
/** Size of a stanza in the log besides its content: attributes, key, hashes. */
const FRAME_BYTES = 1_000
/** Bytes in the log per byte of content: base64 and field names. */
const GROWTH = 3
/** Highest retry count that is reported. Phones give up after five, but the sender may write anything. */
const RETRIES_MAX = 1_000

/** @param {Uint8Array} bytes */
const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex')

/** @typedef {'alone' | 'unread'} Treatment of a suspect: nothing else in decryption meanwhile, or not decrypted at all */

export class Stanza {
  /** @type {import('baileys').proto.IMessage | null} */
  #message = null
  #failure = ''
  #waiting = 0
  #shares = 0
  #before = 0
  /** The attributes as they came, while `nameAuthor` has changed them. @type {Record<string, string> | null} */
  #unnamed = null
  /** @type {string[]} */
  #hashes = []
  /** @type {object[]} */
  #events = []
  #bytes = 0

  /**
   * @param {import('baileys').BinaryNode} node
   * @param {{me?: {id: string, lid?: string}}} creds
   * @param {number} arrivedAt milliseconds, this machine's clock
   * @param {number | null} offset WhatsApp's clock minus this one, milliseconds
   */
  constructor(node, creds, arrivedAt, offset) {
    this.node = node
    this.arrivedAt = arrivedAt
    this.offset = offset
    this.offline = Boolean(node.attrs.offline)
    /** Who wrote it. The inbox asks often. */
    this.author = authorOf(node.attrs)
    /** Approximate size in the log. */
    this.expectedBytes = FRAME_BYTES
    /** @type {import('../log/gate.js').Section | undefined} */
    this.section = undefined
    this.keySteps = new KeySteps()
    /** sha256 of the first ciphertext: what names the stanza when it comes again. @type {string | null} */
    this.hash = null
    /** What to do with a suspect (docs/architecture.md, "A stanza that kills"). @type {Treatment | undefined} */
    this.treatment = undefined
    /** Not from a group that is off: we may request another copy. Decided once, before its decryption. */
    this.wanted = true
    /** @type {import('baileys').WAMessageKey | null} */
    this.key = null
    try {
      this.key = decodeMessageNode(node, creds.me?.id ?? '', creds.me?.lid ?? '').fullMessage.key
    } catch (error) {
      this.#failure = error.message
    }
    /**
     * Whether its chat may be stored: a group's, or the account's own devices, which bring keys. Direct messages and
     * statuses of others never are (docs/architecture.md, "Monitored only").
     */
    this.stored = Boolean(node.attrs.from?.endsWith('@g.us') || node.attrs.category === 'peer' || this.key?.fromMe)
    if (!this.key) return
    /** @type {{content: Uint8Array, hash: string}[]} */
    this.parts = []
    const children = Array.isArray(node.content) ? node.content : []
    for (const child of children) {
      if (!(child.content instanceof Uint8Array)) continue
      if (child.tag === 'plaintext') this.#read(child.content)
      if (child.tag !== 'enc') continue
      if (DECRYPTABLE.has(child.attrs.type)) this.parts.push({ content: child.content, hash: sha256(child.content) })
      else this.#failure ||= `Unknown e2e type: ${child.attrs.type}`
    }
    // Baileys refuses the whole stanza, undecrypted, if its first part is of this type.
    if (children.find((child) => child.tag === 'enc')?.attrs.type === 'msmsg') this.parts = []
    this.hash = this.parts[0]?.hash ?? null
    this.#waiting = this.parts.length
    this.expectedBytes += GROWTH * this.parts.reduce((sum, { content }) => sum + content.length, 0)
    if (this.parts.length === 0 && !this.#message && !this.unavailable) this.#failure ||= NOTHING_TO_DECRYPT
  }

  /** Identifies the message: senders choose ids, so the id alone does not. */
  get name() { return [this.node.attrs.from, this.author, this.node.attrs.id].join(' ') }

  /** It came without a ciphertext: Baileys would request it from the owner's phone. */
  get absent() {
    const children = Array.isArray(this.node.content) ? this.node.content : []
    return this.parts?.length === 0 && !this.#message && this.unavailable !== 'view_once'
      && !children.some(({ tag }) => tag === 'enc')
  }

  get alone() { return this.treatment === 'alone' }

  /** Request no other copy: this is one already, and killed like the first. */
  get hopeless() { return this.treatment === 'unread' && this.#retryCount() > 0 }

  /** Hashes of the ciphertexts that were decrypted so far. */
  get hashes() { return this.#hashes }

  /**
   * Remove parts whose keys are spent, so that the others are still decrypted.
   * @param {{content: Uint8Array, hash: string}[]} spent
   */
  forget(spent) {
    if (spent.length === 0 || !this.parts || !Array.isArray(this.node.content)) return
    const gone = new Set(spent.map(({ content }) => content))
    this.node.content = this.node.content.filter((child) => !gone.has(/** @type {any} */ (child.content)))
    this.parts = this.parts.filter(({ content }) => !gone.has(content))
    this.#waiting = this.parts.length
  }

  /**
   * If an own message in a direct chat has no LID, Baileys sends its receipt without an address: it takes the address
   * from `participant`. So the stanza gets one to read, which must be removed before an ack repeats it. The other address
   * is hidden meanwhile: it is the recipient's, and Baileys would take it for the author's, and mix up their sessions.
   */
  nameAuthor() {
    const { attrs } = this.node
    if (!this.key?.fromMe || !attrs.recipient || attrs.participant || !CHAT_OF_TWO.test(this.key.remoteJid ?? '')) return
    const { peer_recipient_pn, peer_recipient_lid, ...kept } = attrs
    this.#unnamed = attrs
    this.node.attrs = { ...kept, participant: attrs.from }
  }

  forgetAuthor() {
    if (this.#unnamed) this.node.attrs = this.#unnamed
  }

  /** Nothing is left to wait for: the stanza may enter the log. */
  get complete() { return this.#waiting <= 0 && this.#shares === 0 }

  /** @returns {string | null} why the phone keeps the content to itself, for example `view_once` */
  get unavailable() {
    const children = Array.isArray(this.node.content) ? this.node.content : []
    return children.find((child) => child.tag === 'unavailable')?.attrs.type ?? null
  }

  /**
   * @param {Uint8Array} ciphertext
   * @param {Uint8Array} plaintext still padded
   */
  decrypted(ciphertext, plaintext) {
    this.#waiting -= 1
    const part = this.parts?.find(({ content }) => content === ciphertext)
    if (part) this.#hashes.push(part.hash)
    this.#read(plaintext, true)
  }

  /** This part was decrypted and committed before. */
  decryptedBefore() {
    this.#waiting -= 1
    this.#before += 1
  }

  /** Every part was decrypted and committed before: there is nothing to journal. */
  get redelivery() {
    return this.#before > 0 && this.#before === this.parts?.length
  }

  /** @param {Error} error */
  failed(error) {
    this.#waiting -= 1
    this.#failure = error.message || String(error)
  }

  /** A key share that this stanza carried has been stored or refused. */
  shareSettled() {
    this.#shares = Math.max(0, this.#shares - 1)
  }

  /** Baileys gave the stanza up: nothing more comes. @param {string} reason */
  abandon(reason) {
    this.#waiting = 0
    this.#shares = 0
    this.#failure ||= reason
  }

  /**
   * @param {Uint8Array} bytes
   * @param {boolean} [padded]
   */
  #read(bytes, padded = false) {
    try {
      const outer = proto.Message.decode(padded ? unpadRandomMax16(/** @type {any} */ (bytes)) : bytes)
      const message = outer.deviceSentMessage?.message ?? outer
      // Nothing tells when an unencrypted share is stored; and a newsletter's owner could plant one.
      if (padded && message.senderKeyDistributionMessage) this.#shares += 1
      if (this.stored) this.#bytes += bytes.length
      // Anybody can write such an answer. Accept it only from the account's own phone: it names others as authors.
      if (this.key?.fromMe) this.#events.push(...resends(message))
      this.#message = this.#message ? Object.assign(this.#message, message) : message
    } catch (error) {
      this.#failure = `unreadable content: ${error.message}`
    }
  }

  /** @returns {import('../log/gate.js').Item} */
  toItem() {
    /** @type {object | null} */
    let content = null
    try {
      // The worker would only drop what is never stored.
      if (this.stored) content = this.#message && messageToJson(withoutKeys(this.#message))
    } catch (error) {
      this.#failure = `unreadable content: ${error.message}` // nested too deep to walk
    }
    const stanza = {
      attrs: this.node.attrs,
      key: this.key && { ...this.key },
      arrived_at_ms: this.arrivedAt,
      server_time_offset_ms: this.offset,
      content,
      failure: this.#failure || null,
      hashes: this.#hashes,
      retry_count: this.#retryCount(),
      unavailable: this.unavailable,
      wanted: this.wanted,
      undecrypted: this.treatment === 'unread' && this.stored ? JSON.stringify(this.node, BufferJSON.replacer) : null,
    }
    this.#bytes += stanza.undecrypted?.length ?? 0
    const item = { stanza, events: this.#events, bytes: FRAME_BYTES + GROWTH * this.#bytes }
    if (this.#bytes > MEASURED_FROM) item.bytes = jsonBytes(item)
    if (item.bytes <= JSON_BYTES_MAX) return item
    return { stanza: { ...stanza, content: null, undecrypted: null, failure: 'content too large for the wire' }, events: [], bytes: FRAME_BYTES }
  }

  #retryCount() {
    const children = Array.isArray(this.node.content) ? this.node.content : []
    const count = Math.trunc(Number(children.find((child) => child.tag === 'enc' && child.attrs.count)?.attrs.count))
    return count > 0 ? Math.min(count, RETRIES_MAX) : 0
  }
}

/**
 * The LID if the stanza has one (docs/whatsapp.md, "Who sent it").
 * @param {import('baileys').BinaryNode['attrs']} attrs
 */
function authorOf({ participant, participant_lid, participant_pn, sender_lid, sender_pn, from }) {
  const others = participant ? [] : [from, sender_lid, sender_pn]
  const addresses = [participant, participant_lid, participant_pn, ...others]
  const address = addresses.find((one) => one?.endsWith('@lid')) ?? addresses.find(Boolean) ?? ''
  return address.replace(/[:@].*/, '')
}

/** @param {object} value @returns {number} Infinity if it is longer than any string may be */
function jsonBytes(value) {
  try {
    return Buffer.byteLength(JSON.stringify(value))
  } catch {
    return Infinity
  }
}

/**
 * A key share is only for the key store. The worker learns only that there was one.
 * @param {import('baileys').proto.IMessage} message
 */
const withoutKeys = (message) =>
  message.senderKeyDistributionMessage ? { ...message, senderKeyDistributionMessage: {} } : message

/**
 * Messages that the phone delivers again inside one of its answers. Baileys emits them after the receipt for the
 * answer, so we take them here, within its section.
 * @param {import('baileys').proto.IMessage} message
 * @returns {object[]}
 */
function resends(message) {
  const results = message.protocolMessage?.peerDataOperationRequestResponseMessage?.peerDataOperationResult ?? []
  return results.flatMap((result) => {
    const bytes = result.placeholderMessageResendResponse?.webMessageInfoBytes
    if (!bytes) return []
    const info = proto.WebMessageInfo.decode(bytes)
    if (!info.message) return []
    return [{
      type: 'resend',
      key: { ...info.key },
      content: messageToJson(withoutKeys(info.message)),
      t: String(info.messageTimestamp ?? 0),
      push_name: info.pushName || null,
    }]
  })
}
