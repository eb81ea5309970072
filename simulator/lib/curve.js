/**
 * Curve25519 keys for X25519 and XEdDSA, using Node's own crypto.
 *
 * The trick: start from an Ed25519 key. Its clamped scalar is a valid X25519 private key, its public point maps to the X25519 public
 * key, and a plain Ed25519 signature verifies as XEdDSA once the point's sign bit is moved into the signature's last byte.
 * libsignal's own signing is pure JavaScript, 12 ms a call (docs/whatsapp.md, "Signatures").
 */
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, sign as signEd25519 } from 'node:crypto'

const PKCS8_X25519 = Buffer.from('302e020100300506032b656e04220420', 'hex')
const KEY_TYPE_DJB = 5 // libsignal writes it before every public key

/**
 * @typedef {object} SigningKey
 * @property {Buffer} private - X25519, clamped, 32 bytes
 * @property {Buffer} public - X25519, 32 bytes
 * @property {(message: Uint8Array) => Buffer} sign - XEdDSA, 64 bytes
 */

/** @returns {SigningKey} a fresh key for both uses */
export function makeSigningKey() {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519')
  const seed = privateKey.export({ format: 'der', type: 'pkcs8' }).subarray(-32)
  const scalar = Buffer.from(createHash('sha512').update(seed).digest().subarray(0, 32))
  scalar[0] = (scalar[0] ?? 0) & 248
  scalar[31] = ((scalar[31] ?? 0) & 127) | 64
  const agreement = createPrivateKey({ key: Buffer.concat([PKCS8_X25519, scalar]), format: 'der', type: 'pkcs8' })
  const point = publicKey.export({ format: 'der', type: 'spki' })
  const signBit = (point.at(-1) ?? 0) & 0x80
  return {
    private: scalar,
    public: Buffer.from(createPublicKey(agreement).export({ format: 'der', type: 'spki' }).subarray(-32)),
    sign(message) {
      const signature = signEd25519(null, message, privateKey)
      signature[63] = (signature[63] ?? 0) | signBit
      return signature
    }
  }
}

/**
 * A public key in libsignal's form.
 * @param {Uint8Array} key - 32 bytes, or 33 with the prefix already there
 */
export function withTypePrefix(key) {
  return key.length === 33 ? Buffer.from(key) : Buffer.concat([Buffer.from([KEY_TYPE_DJB]), key])
}
