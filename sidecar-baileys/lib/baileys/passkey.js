/**
 * Linking behind a passkey (docs/whatsapp.md, "The passkey gate"): reads what WhatsApp sends after the scan, or after the
 * typed code, instead of linking. Decides nothing: the worker is told.
 */
import { getBinaryNodeChild, proto } from 'baileys'

const REQUEST = 'passkey_prologue_request'
const CONTINUATION = 'crsc_continuation'
/** Notifications that Baileys does not know, and by QR cannot even ack: it has no name for the account yet. */
export const PASSKEY_NOTIFICATIONS = new Set([REQUEST, CONTINUATION])
/** Both forms of the server's address that Baileys reads off the wire. */
const SERVER = new Set(['s.whatsapp.net', '@s.whatsapp.net'])
/** The nack of WhatsApp's own client for a stanza that it cannot read. */
const UNREADABLE = 487
const OPTIONS_BYTES_MAX = 4096
/** Of the phone's key and of its nonce. */
const BYTES = 32

export class Passkey {
  /** @param {(method: string, params: object) => void} notify */
  constructor(notify) {
    this.notify = notify
  }

  /**
   * One of `PASSKEY_NOTIFICATIONS` has arrived.
   * @param {import('baileys').BinaryNode} node
   * @returns {number | undefined} the error that its ack must name
   */
  take(node) {
    if (!SERVER.has(node.attrs.from)) return undefined
    return node.attrs.type === REQUEST ? this.#requested(node) : this.#continued(node)
  }

  /** @param {import('baileys').BinaryNode} node */
  #requested(node) {
    const child = getBinaryNodeChild(node, 'passkey_request_options')
    const options = child ? readOptions(child.content) : null
    this.notify('passkey_requested', { options })
    return child && !options ? UNREADABLE : undefined
  }

  /** @param {import('baileys').BinaryNode} node */
  #continued(node) {
    return readPhone(node) ? undefined : UNREADABLE
  }
}

/** The phone's half: its ephemeral key and its nonce. @param {import('baileys').BinaryNode} node */
function readPhone({ content }) {
  const [child] = Array.isArray(content) ? content : []
  if (child?.tag !== 'primary_ephemeral_identity' || !(child.content instanceof Uint8Array)) return null
  try {
    const { publicKey, nonce } = proto.PrimaryEphemeralIdentity.decode(child.content)
    return publicKey?.length === BYTES && nonce?.length === BYTES ? { publicKey, nonce } : null
  } catch {
    return null
  }
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
