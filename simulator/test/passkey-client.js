/** The companion's side of the passkey gate on a stock Baileys socket: enough to play every step, well or badly. */
import { createCipheriv, randomBytes } from 'node:crypto'
import { Curve, proto } from 'baileys'
import { commitmentOf, comparisonCode, handoffProof, pairingKey } from '../lib/passkey-crypto.js'
import { bytesOf, child } from '../lib/stanza.js'

export class Ceremony {
  ephemeral = Curve.generateKeyPair()
  nonce = randomBytes(32)
  secret = randomBytes(32)
  ref = ''
  code = ''
  /** @type {any[]} */
  requests = []
  /** @type {any} */
  primary = null

  /** @param {import('./client.js').Client} client */
  constructor(client) {
    this.client = client
    this.sock = /** @type {any} */ (client.sock)
    const note = (/** @type {() => void} */ change) => { change(); client.events.emit('change') }
    this.sock.ws.on('CB:notification,type:passkey_prologue_request', (/** @type {any} */ stanza) => note(() => this.requests.push(stanza)))
    this.sock.ws.on('CB:notification,type:crsc_continuation', (/** @type {any} */ stanza) => note(() => { this.primary = proto.PrimaryEphemeralIdentity.decode(bytesOf(child(stanza, 'primary_ephemeral_identity'))) }))
  }

  /** @param {string} tag @param {any} [content] @returns {Promise<any>} */
  query(tag, content) {
    return this.sock.query({ tag: 'iq', attrs: { to: 's.whatsapp.net', xmlns: 'md', type: content ? 'set' : 'get' }, content: [{ tag, attrs: {}, content }] })
  }

  /** @param {any} stanza */
  ack({ attrs: { id, from, type } }) {
    return this.sock.sendNode({ tag: 'ack', attrs: { class: 'notification', id, to: from, type } })
  }

  async options() {
    const request = await this.client.until(() => this.requests.at(-1), 'the request')
    await this.ack(request)
    return JSON.parse(bytesOf(child(request, 'passkey_request_options')).toString())
  }

  /** @param {any} assertion @param {{proof?: Buffer | true, deviceType?: number, ref?: string}} [more] */
  async prologue(assertion, { proof, deviceType = 1, ref } = {}) {
    this.ref = ref ?? bytesOf(child(await this.query('ref'), 'ref')).toString()
    this.deviceType = deviceType
    this.identity = proto.CompanionEphemeralIdentity.encode({ publicKey: this.ephemeral.public, deviceType, ref: this.ref }).finish()
    const payload = proto.ProloguePayload.encode({ companionEphemeralIdentity: this.identity, commitment: { hash: commitmentOf(this.identity, this.nonce) } }).finish()
    const own = proof === true ? handoffProof(Buffer.from(this.client.auth.creds.advSecretKey, 'base64'), payload) : proof
    const leaf = (/** @type {string} */ tag, /** @type {Uint8Array} */ content) => ({ tag, attrs: {}, content })
    return this.query('passkey_prologue', [
      leaf('credential_id', Buffer.from(assertion.rawId, 'base64url')), leaf('webauthn_assertion', Buffer.from(JSON.stringify(assertion))),
      leaf('prologue_payload', payload), ...(own ? [leaf('pairing_handoff_proof', own)] : [])
    ])
  }

  async reveal(nonce = this.nonce) {
    const primary = await this.client.until(() => this.primary, 'the continuation')
    await this.query('companion_nonce', nonce)
    this.code = comparisonCode(nonce, primary.publicKey, primary.nonce)
  }

  async finish(identity = this.client.auth.creds.signedIdentityKey.public) {
    const { creds } = this.client.auth
    const key = pairingKey(Curve.sharedKey(this.ephemeral.private, this.primary.publicKey), this.deviceType ?? 1, this.ref)
    const plain = proto.PairingRequest.encode({ companionPublicKey: creds.noiseKey.public, companionIdentityKey: identity, advSecret: this.secret }).finish()
    const iv = randomBytes(12)
    const cipher = createCipheriv('aes-256-gcm', key, iv)
    const encryptedPayload = Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()])
    creds.advSecretKey = this.secret.toString('base64')
    return this.query('encrypted_pairing_request', proto.EncryptedPairingRequest.encode({ encryptedPayload, iv }).finish())
  }
}
