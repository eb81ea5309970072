/**
 * What two devices compute when one links the other behind a passkey (docs/whatsapp.md, "Keys and the code"). Pure: the
 * caller draws keys, nonces and the iv.
 */
import { createHash, hkdfSync } from 'node:crypto'
import { aesEncryptGCM, bytesToCrockford, Curve, proto } from 'baileys'

/** Of keys, nonces and secrets. */
export const KEY_BYTES = 32
const CODE_BYTES = 5
const KEY_INFO = 'Pairing Information Encryption Key'

/** @param {...Uint8Array} parts */
const sha256 = (...parts) => createHash('sha256').update(Buffer.concat(parts)).digest()

/**
 * The companion's half: an ephemeral key, bound to the server's reference, and a nonce.
 * @typedef {object} Half
 * @property {{public: Uint8Array, private: Uint8Array}} ephemeral X25519, 32 bytes each
 * @property {Uint8Array} nonce 32 bytes
 * @property {number} deviceType `DeviceProps.PlatformType`, as registered
 * @property {string} ref
 */

/** @param {Half} half @returns {Uint8Array} `ProloguePayload`: the half without its nonce, and the commitment to both */
export function makePrologue({ ephemeral, nonce, deviceType, ref }) {
  const identity = proto.CompanionEphemeralIdentity.encode({ publicKey: ephemeral.public, deviceType, ref }).finish()
  const commitment = { hash: sha256(identity, nonce) }
  return proto.ProloguePayload.encode({ companionEphemeralIdentity: identity, commitment }).finish()
}

/**
 * What both screens show.
 * @param {Uint8Array} nonce the companion's
 * @param {{publicKey: Uint8Array, nonce: Uint8Array}} phone
 * @returns {string} `XXXX-XXXX`
 */
export function comparisonCode(nonce, phone) {
  const digest = sha256(nonce, phone.publicKey)
  const letters = bytesToCrockford(Buffer.from(phone.nonce.subarray(0, CODE_BYTES).map((byte, i) => byte ^ digest[i])))
  return `${letters.slice(0, 4)}-${letters.slice(4)}`
}

/**
 * `EncryptedPairingRequest`: what the phone signs and links, encrypted for the phone.
 * @param {Half} half
 * @param {Uint8Array} phoneKey
 * @param {{noise: Uint8Array, identity: Uint8Array, advSecret: Uint8Array}} keys public keys, and the secret for `pair-success`
 * @param {Uint8Array} iv 12 bytes
 */
export function sealPairingRequest({ ephemeral, deviceType, ref }, phoneKey, { noise, identity, advSecret }, iv) {
  const shared = Curve.sharedKey(ephemeral.private, phoneKey)
  const key = Buffer.from(hkdfSync('sha256', shared, `Companion Pairing ${deviceType} with ref ${ref}`, KEY_INFO, KEY_BYTES))
  const request = { companionPublicKey: noise, companionIdentityKey: identity, advSecret }
  const plain = proto.PairingRequest.encode(request).finish()
  const encryptedPayload = aesEncryptGCM(plain, key, iv, Buffer.alloc(0))
  return proto.EncryptedPairingRequest.encode({ encryptedPayload, iv }).finish()
}
