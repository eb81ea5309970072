/** A software authenticator with one passkey for whatsapp.com: what the account's owner answers a WebAuthn request with (ES256). */
import { createHash, generateKeyPairSync, randomBytes, sign, verify } from 'node:crypto'

export const RP_ID = 'whatsapp.com'
export const ORIGIN = 'https://web.whatsapp.com'
const PRESENT_AND_VERIFIED = 0x05 // the flags UP and UV
const HEAD_BYTES = 37 // hash of the relying party, flags, counter

/** @param {Uint8Array | string} data */
const sha256 = (data) => createHash('sha256').update(data).digest()

export class Authenticator {
  credentialId = randomBytes(32)
  #keys = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  #counter = 0

  /**
   * @param {{challenge?: string, rpId?: string}} options - as WhatsApp sends them
   * @param {{origin?: string, flags?: number, type?: string}} [lies]
   * @returns the credential as a browser's `toJSON()` without its extras; binaries are unpadded base64url
   */
  assert({ challenge = '', rpId = RP_ID }, { origin = ORIGIN, flags = PRESENT_AND_VERIFIED, type = 'webauthn.get' } = {}) {
    const client = Buffer.from(JSON.stringify({ type, challenge, origin, crossOrigin: false }))
    const data = Buffer.alloc(HEAD_BYTES)
    sha256(rpId).copy(data)
    data[32] = flags
    data.writeUInt32BE(++this.#counter, 33)
    const signature = sign('sha256', Buffer.concat([data, sha256(client)]), this.#keys.privateKey)
    const id = this.credentialId.toString('base64url')
    return {
      id, rawId: id, type: 'public-key',
      response: { clientDataJSON: client.toString('base64url'), authenticatorData: data.toString('base64url'), signature: signature.toString('base64url'), userHandle: null }
    }
  }

  /**
   * What the server checks of an assertion.
   * @param {Buffer} credentialId - as sent beside it @param {any} assertion @param {string} challenge
   * @returns {string | null} what is wrong
   */
  wrongIn(credentialId, assertion, challenge) {
    const { id, rawId, type, response } = assertion ?? {}
    const bytes = (/** @type {unknown} */ text) => Buffer.from(String(text ?? ''), 'base64url')
    if (!credentialId.equals(this.credentialId) || !bytes(rawId).equals(credentialId) || id !== rawId) return 'credential'
    if (type !== 'public-key' || Object.keys(assertion).some((name) => !['id', 'rawId', 'type', 'response'].includes(name))) return 'shape'
    const client = bytes(response?.clientDataJSON)
    const data = bytes(response?.authenticatorData)
    const said = JSON.parse(client.toString())
    if (said.type !== 'webauthn.get') return 'type'
    if (said.challenge !== challenge) return 'challenge'
    if (said.origin !== ORIGIN) return 'origin'
    if (!data.subarray(0, 32).equals(sha256(RP_ID))) return 'relying party'
    if (((data[32] ?? 0) & PRESENT_AND_VERIFIED) !== PRESENT_AND_VERIFIED) return 'flags'
    return verify('sha256', Buffer.concat([data, sha256(client)]), this.#keys.publicKey, bytes(response.signature)) ? null : 'signature'
  }
}
