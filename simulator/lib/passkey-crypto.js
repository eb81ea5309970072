/** The cryptography of linking behind a passkey: both sides compute the same from public keys, nonces and a sentence. No state. */
import { createDecipheriv, createHash, createHmac, hkdfSync } from 'node:crypto'

const ALPHABET = '123456789ABCDEFGHJKLMNPQRSTVWXYZ' // 5 bits a letter
const CODE_BYTES = 5
const TAG_BYTES = 16

/** @param {Uint8Array} identity - encoded CompanionEphemeralIdentity @param {Uint8Array} nonce - the companion's, 32 bytes */
export const commitmentOf = (identity, nonce) => createHash('sha256').update(identity).update(nonce).digest()

/** @param {Uint8Array} advSecret - the one before the rotation @param {Uint8Array} prologue - encoded ProloguePayload */
export function handoffProof(advSecret, prologue) {
  const key = Buffer.from(hkdfSync('sha256', advSecret, Buffer.alloc(0), 'shortcake-passkey-handoff-v1', 32))
  return createHmac('sha256', key).update(prologue).digest()
}

/** What both screens show, `XXXX-XXXX`. @param {Uint8Array} companionNonce @param {Uint8Array} primaryPublic @param {Uint8Array} primaryNonce */
export function comparisonCode(companionNonce, primaryPublic, primaryNonce) {
  const digest = createHash('sha256').update(companionNonce).update(primaryPublic).digest()
  let bits = 0n
  for (let i = 0; i < CODE_BYTES; i++) bits = (bits << 8n) | BigInt((primaryNonce[i] ?? 0) ^ (digest[i] ?? 0))
  const letters = Array.from({ length: 8 }, (_, i) => ALPHABET[Number((bits >> BigInt(35 - 5 * i)) & 31n)]).join('')
  return `${letters.slice(0, 4)}-${letters.slice(4)}`
}

/** @param {Uint8Array} shared - of the two ephemeral keys @param {number} deviceType @param {string} ref */
export function pairingKey(shared, deviceType, ref) {
  return Buffer.from(hkdfSync('sha256', shared, Buffer.from(`Companion Pairing ${deviceType} with ref ${ref}`), 'Pairing Information Encryption Key', 32))
}

/** @param {Uint8Array} payload - ciphertext and tag @param {Uint8Array} iv @param {Uint8Array} key @returns {Buffer} an encoded PairingRequest; throws if it does not open */
export function openPairingRequest(payload, iv, key) {
  const end = payload.length - TAG_BYTES
  const decipher = createDecipheriv('aes-256-gcm', key, iv).setAuthTag(payload.subarray(end))
  return Buffer.concat([decipher.update(payload.subarray(0, end)), decipher.final()])
}
