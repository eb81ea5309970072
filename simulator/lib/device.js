/**
 * One device of a person: its identity, its Signal session with the linked client, its sender keys.
 *
 * Sessions live as long as the program, across the client's reconnects; a newly paired client is a new peer.
 */
import { randomInt } from 'node:crypto'
import { Curve, proto } from 'baileys'
import * as libsignal from 'libsignal'
// @ts-ignore no types
import whisper from 'libsignal/src/protobufs.js'
import { advance } from './attacker.js'
import { makeSigningKey, withTypePrefix } from './curve.js'
import { SenderKey } from './sender-key.js'

/** @typedef {{registrationId: number, identity: Uint8Array, signedPreKey: {keyId: number, publicKey: Uint8Array, signature: Uint8Array}, preKey?: {keyId: number, publicKey: Uint8Array}}} Bundle */

const SIGNED_PREKEY_ID = 1

export class Device {
  identity = makeSigningKey()
  registrationId = randomInt(1, 16380)
  #signedPreKey = makeSigningKey()
  /** @type {Map<number, {private: Uint8Array, public: Uint8Array}>} */
  #preKeys = new Map()
  #nextPreKey = 1
  /** @type {Map<string, any>} */
  #sessions = new Map()
  /** @type {Map<string, SenderKey>} by group id */
  #senderKeys = new Map()

  /** @param {number} number - 0 is the phone */
  constructor(number) {
    this.number = number
  }

  /** @param {string} group */
  senderKey(group) {
    let key = this.#senderKeys.get(group)
    if (!key) this.#senderKeys.set(group, (key = new SenderKey()))
    return key
  }

  /** A new key that nobody has: after somebody left, or as a fault. @param {string} group */
  rotateSenderKey(group) {
    this.#senderKeys.delete(group)
    return this.senderKey(group)
  }

  /** @param {number} generation - of the client */
  hasSession(generation) {
    return this.#sessions.has(this.#address(generation).toString())
  }

  /** Starts a session with the client, as after fetching its pre-keys. @param {number} generation @param {Bundle} bundle */
  async startSession(generation, bundle) {
    const builder = new libsignal.SessionBuilder(this.#storage(), this.#address(generation))
    await builder.initOutgoing(/** @type {any} */ ({
      registrationId: bundle.registrationId,
      identityKey: withTypePrefix(bundle.identity),
      signedPreKey: { ...bundle.signedPreKey, publicKey: withTypePrefix(bundle.signedPreKey.publicKey) },
      preKey: bundle.preKey && { ...bundle.preKey, publicKey: withTypePrefix(bundle.preKey.publicKey) }
    }))
  }

  /**
   * @param {number} generation @param {Uint8Array} padded
   * @returns {Promise<{type: 'pkmsg' | 'msg', ciphertext: Buffer}>}
   */
  async encrypt(generation, padded) {
    const cipher = new libsignal.SessionCipher(this.#storage(), this.#address(generation))
    const { type, body } = await cipher.encrypt(Buffer.from(padded))
    return { type: type === 3 ? 'pkmsg' : 'msg', ciphertext: Buffer.from(/** @type {any} */ (body)) }
  }

  /** The next message to the client has a number that is so much higher. @param {number} generation @param {number} steps */
  skip(generation, steps) {
    const session = this.#sessions.get(this.#address(generation).toString())?.getOpenSession()
    const { chainKey } = session.getChain(session.currentRatchet.ephemeralKeyPair.pubKey)
    chainKey.key = advance(chainKey.key, steps)
    chainKey.counter += steps
  }

  /** What the client wrote to this device. @param {number} generation @param {string} type @param {Uint8Array} ciphertext */
  async decrypt(generation, type, ciphertext) {
    const cipher = new libsignal.SessionCipher(this.#storage(), this.#address(generation))
    const bytes = Buffer.from(ciphertext)
    return type === 'pkmsg' ? cipher.decryptPreKeyWhisperMessage(bytes) : cipher.decryptWhisperMessage(bytes)
  }

  /** The pre-key bundle that the server gives to anyone who wants to write to this device. */
  bundle() {
    const preKey = Curve.generateKeyPair()
    const keyId = this.#nextPreKey++
    this.#preKeys.set(keyId, preKey)
    const publicKey = this.#signedPreKey.public
    return {
      registrationId: this.registrationId, identity: this.identity.public, preKey: { keyId, publicKey: preKey.public },
      signedPreKey: { keyId: SIGNED_PREKEY_ID, publicKey, signature: this.identity.sign(withTypePrefix(publicKey)) }
    }
  }

  /** @param {number} generation */
  #address(generation) {
    return new libsignal.ProtocolAddress('client', generation)
  }

  /** @returns {any} */
  #storage() {
    return {
      loadSession: async (/** @type {string} */ id) => this.#sessions.get(id),
      storeSession: async (/** @type {string} */ id, /** @type {any} */ record) => void this.#sessions.set(id, record),
      isTrustedIdentity: () => true,
      loadPreKey: async (/** @type {number} */ id) => libsignalPair(this.#preKeys.get(id)),
      removePreKey: async (/** @type {number} */ id) => void this.#preKeys.delete(id),
      loadSignedPreKey: () => libsignalPair(this.#signedPreKey),
      getOurRegistrationId: () => this.registrationId,
      getOurIdentity: () => libsignalPair(this.identity)
    }
  }
}

/** @param {{private: Uint8Array, public: Uint8Array} | undefined} pair */
function libsignalPair(pair) {
  return pair && { privKey: Buffer.from(pair.private), pubKey: withTypePrefix(pair.public) }
}

/**
 * A pairwise ciphertext that fails its authentication.
 * @param {'pkmsg' | 'msg'} type @param {Buffer} ciphertext
 */
export function spoil(type, ciphertext) {
  if (type === 'msg') return flipLast(ciphertext)
  const parsed = whisper.PreKeyWhisperMessage.decode(ciphertext.subarray(1))
  parsed.message = flipLast(Buffer.from(parsed.message))
  return Buffer.concat([ciphertext.subarray(0, 1), whisper.PreKeyWhisperMessage.encode(parsed).finish()])
}

/** @param {Buffer} bytes */
function flipLast(bytes) {
  const copy = Buffer.from(bytes)
  copy[copy.length - 1] = (copy.at(-1) ?? 0) ^ 0xff
  return copy
}

/** The bytes that are encrypted: the message and 1 to 16 bytes of padding. @param {proto.IMessage} message */
export function padMessage(message) {
  const padding = randomInt(1, 17)
  return Buffer.concat([proto.Message.encode(message).finish(), Buffer.alloc(padding, padding)])
}
