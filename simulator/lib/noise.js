/**
 * The server's half of Noise_XX_25519_AESGCM_SHA256 as WhatsApp uses it, and the transport that follows
 * (docs/whatsapp.md, "The server's side"). A client that resumes (IK, with its static key in the first frame) is answered by
 * XXfallback: from there on it does as if it had begun with XX.
 *
 * Owns keys and counters; does no I/O. A frame that does not decrypt throws, and the connection is over.
 */
import { createCipheriv, createDecipheriv, createHash, hkdfSync } from 'node:crypto'
import { Curve, proto } from 'baileys'

const XX = Buffer.from('Noise_XX_25519_AESGCM_SHA256\0\0\0\0') // 32 bytes: used unhashed
const XX_FALLBACK = createHash('sha256').update('Noise_XXfallback_25519_AESGCM_SHA256').digest()
const TAG_BYTES = 16
const EMPTY = Buffer.alloc(0)

/** @param {number} counter */
function nonce(counter) {
  const iv = Buffer.alloc(12)
  iv.writeUInt32BE(counter, 8)
  return iv
}

/** @param {Uint8Array} text @param {Uint8Array} key @param {number} counter @param {Uint8Array} aad */
function seal(text, key, counter, aad) {
  const cipher = createCipheriv('aes-256-gcm', key, nonce(counter)).setAAD(aad)
  return Buffer.concat([cipher.update(text), cipher.final(), cipher.getAuthTag()])
}

/** @param {Uint8Array} sealed @param {Uint8Array} key @param {number} counter @param {Uint8Array} aad */
function open(sealed, key, counter, aad) {
  const end = sealed.length - TAG_BYTES
  const decipher = createDecipheriv('aes-256-gcm', key, nonce(counter)).setAAD(aad).setAuthTag(sealed.subarray(end))
  return Buffer.concat([decipher.update(sealed.subarray(0, end)), decipher.final()])
}

export class ServerHandshake {
  #hash = XX
  #salt = XX
  #key = XX
  #counter = 0
  #ephemeral = Curve.generateKeyPair()
  #static
  #header

  /** @param {{private: Uint8Array, public: Uint8Array}} staticKey @param {Uint8Array} header - the client's intro, e.g. "WA" 6 3 */
  constructor(staticKey, header) {
    this.#static = staticKey
    this.#header = header
  }

  /** @param {Buffer<ArrayBuffer>} mode - the protocol's name, of 32 bytes */
  #begin(mode) {
    this.#hash = this.#salt = this.#key = mode
    this.#mixHash(this.#header)
  }

  /** @param {Uint8Array} data */
  #mixHash(data) {
    this.#hash = createHash('sha256').update(this.#hash).update(data).digest()
  }

  /** @param {Uint8Array} secret */
  #expand(secret) {
    const both = Buffer.from(hkdfSync('sha256', secret, this.#salt, EMPTY, 64))
    return [both.subarray(0, 32), both.subarray(32)]
  }

  /** @param {Uint8Array} secret */
  #mixKey(secret) {
    const [salt, key] = this.#expand(secret)
    this.#salt = /** @type {Buffer<ArrayBuffer>} */ (salt)
    this.#key = /** @type {Buffer<ArrayBuffer>} */ (key)
    this.#counter = 0
  }

  /** @param {Uint8Array} text */
  #seal(text) {
    const sealed = seal(text, this.#key, this.#counter++, this.#hash)
    this.#mixHash(sealed)
    return sealed
  }

  /** @param {Uint8Array} sealed */
  #open(sealed) {
    const text = open(sealed, this.#key, this.#counter++, this.#hash)
    this.#mixHash(sealed)
    return text
  }

  /**
   * Answers the client's hello.
   * @param {Uint8Array} frame @param {Uint8Array} certChain
   * @returns {Uint8Array} the frame to send
   */
  hello(frame, certChain) {
    const { clientHello } = proto.HandshakeMessage.decode(frame)
    if (!clientHello?.ephemeral) throw new Error('no client hello')
    this.resumes = Boolean(clientHello.static?.length)
    this.#begin(this.resumes ? XX_FALLBACK : XX)
    this.clientEphemeral = clientHello.ephemeral
    this.#mixHash(clientHello.ephemeral)
    this.#mixHash(this.#ephemeral.public)
    this.#mixKey(Curve.sharedKey(this.#ephemeral.private, clientHello.ephemeral))
    const sealedStatic = this.#seal(this.#static.public)
    this.#mixKey(Curve.sharedKey(this.#static.private, clientHello.ephemeral))
    const payload = this.#seal(certChain)
    return proto.HandshakeMessage.encode({ serverHello: { ephemeral: this.#ephemeral.public, static: sealedStatic, payload } }).finish()
  }

  /**
   * Reads the client's last handshake frame.
   * @param {Uint8Array} frame
   * @returns {{clientStatic: Buffer, payload: proto.ClientPayload, transport: Transport}}
   */
  finish(frame) {
    const { clientFinish } = proto.HandshakeMessage.decode(frame)
    if (!clientFinish?.static || !clientFinish.payload) throw new Error('no client finish')
    const clientStatic = this.#open(clientFinish.static)
    this.#mixKey(Curve.sharedKey(this.#ephemeral.private, clientStatic))
    const payload = proto.ClientPayload.decode(this.#open(clientFinish.payload))
    const [clientWrites, serverWrites] = this.#expand(EMPTY)
    return { clientStatic, payload, transport: new Transport(/** @type {Buffer} */ (serverWrites), /** @type {Buffer} */ (clientWrites)) }
  }
}

/** Both directions after the handshake; each frame uses the next counter, so order is part of the key. */
export class Transport {
  #sent = 0
  #read = 0

  /** @param {Buffer} writeKey @param {Buffer} readKey */
  constructor(writeKey, readKey) {
    this.writeKey = writeKey
    this.readKey = readKey
  }

  /** @param {Uint8Array} text */
  seal(text) {
    return seal(text, this.writeKey, this.#sent++, EMPTY)
  }

  /** @param {Uint8Array} sealed */
  open(sealed) {
    return open(sealed, this.readKey, this.#read++, EMPTY)
  }
}
