/**
 * The server's and the phone's side of linking behind a passkey (docs/whatsapp.md, "The passkey gate"): after the scan or the code the
 * account's owner must sign a challenge; then the two devices agree on a key and show a code; only then comes `pair-success`.
 *
 * Owns one attempt per connection. Every check that fails is kept in `problems` and answered with 400.
 */
import { randomBytes } from 'node:crypto'
import { Curve, proto } from 'baileys'
import { RP_ID } from './authenticator.js'
import { ControlError } from './errors.js'
import { commitmentOf, comparisonCode, handoffProof, openPairingRequest, pairingKey } from './passkey-crypto.js'
import { bytesOf, child, node, SERVER } from './stanza.js'

/** @typedef {import('./connection.js').Connection} Connection */
/** @typedef {import('./stanza.js').Node} Node */
/** @typedef {Node[] | {error: number, text: string} | null} Answer - null: silence */

const REFUSED = { error: 400, text: 'bad-request' }
const KEY_BYTES = 32

/** The client's queries, in their order. */
export const STEPS = ['passkey_request_options', 'ref', 'passkey_prologue', 'companion_nonce', 'encrypted_pairing_request']

/** Faults for the next attempt. */
export const PASSKEY_VARIANTS = {
  options: ['embedded', 'absent', 'broken', 'twice', 'wrong_from'], // how the request comes
  continuation: ['normal', 'silence', 'early', 'short_key', 'short_nonce'], // what follows the prologue
  refuse: ['', ...STEPS], // this step is answered with 400
  silence: ['', ...STEPS, 'pair-success'], // not answered; `pair-success`: the request is, but nothing follows
  cut: ['', 'passkey_prologue_request', ...STEPS] // the socket ends at this step
}

export class Gate {
  stage = 'requested'
  code = ''
  /** @type {'unknown' | 'absent' | 'good' | 'wrong'} */
  proof = 'unknown'
  /** @type {string[]} */
  problems = []
  /** @type {string[]} types of the gate's notifications that the client acked, with the error that it named */
  acks = []
  confirmed = false
  challenge = randomBytes(KEY_BYTES).toString('base64url')
  #challengeAt = performance.now()
  #ref = ''
  #identity = Buffer.alloc(0)
  /** @type {proto.CompanionEphemeralIdentity | null} */
  #companion = null
  #commitment = Buffer.alloc(0)
  #ephemeral = Curve.generateKeyPair()
  #nonce = randomBytes(KEY_BYTES)

  /**
   * @param {Connection} connection @param {Buffer} advSecret - of the scanned QR, or of the code's bundle
   * @param {Record<string, string>} variant @param {(advSecret: Buffer) => Promise<unknown>} link
   */
  constructor(connection, advSecret, variant, link) {
    this.connection = connection
    this.advSecret = advSecret
    this.variant = variant
    this.link = link
  }

  get options() {
    return { challenge: this.challenge, timeout: Math.ceil(this.connection.phone.realism.ms('passkey_ms')), rpId: RP_ID, allowCredentials: [], userVerification: 'required', extensions: { uvm: true } }
  }

  /** Step 1: the request. */
  request() {
    const { options, continuation, cut } = this.variant
    const text = options === 'broken' ? '{"challenge":' : JSON.stringify(this.options)
    const content = options === 'absent' ? [] : [node('passkey_request_options', {}, Buffer.from(text))]
    if (options === 'wrong_from') this.#notify('passkey_prologue_request', content, '491510000099@s.whatsapp.net')
    if (continuation === 'early') this.#continue()
    for (let i = 0; i < (options === 'twice' ? 2 : 1); i++) this.#notify('passkey_prologue_request', content)
    if (cut === 'passkey_prologue_request') this.connection.reset()
  }

  /** @param {string} type @param {Node[]} content */
  #notify(type, content, from = SERVER) {
    this.connection.send(node('notification', { from, type, id: randomBytes(8).toString('hex'), t: String(Math.floor(Date.now() / 1000)) }, content))
  }

  /** @param {Record<string, string>} ack */
  noteAck({ type = '', error }) {
    if (type === 'passkey_prologue_request' || type === 'crsc_continuation') this.acks.push(error ? `${type} ${error}` : type)
  }

  /** Step 6: the phone shows its ephemeral key and its nonce. */
  #continue() {
    const { continuation } = this.variant
    const short = (/** @type {Uint8Array} */ bytes, /** @type {string} */ name) => (continuation === name ? bytes.subarray(1) : bytes)
    const identity = proto.PrimaryEphemeralIdentity.encode({ publicKey: short(this.#ephemeral.public, 'short_key'), nonce: short(this.#nonce, 'short_nonce') }).finish()
    this.#notify('crsc_continuation', [node('primary_ephemeral_identity', {}, identity)])
  }

  /** The client's query of this name. @param {Node} query - the first child @returns {Answer} */
  answer(query) {
    const { refuse, silence, cut } = this.variant
    const { tag } = query
    if (cut === tag) return this.connection.reset(), null
    if (refuse === tag) return this.#refused(`${tag} refused as asked`)
    const answer = this.#step(query)
    this.connection.phone.changes.emit('change')
    return silence === tag ? null : answer
  }

  /** @param {Node} query @returns {Answer} */
  #step(query) {
    switch (query.tag) {
      case 'passkey_request_options':
        this.challenge = randomBytes(KEY_BYTES).toString('base64url')
        this.#challengeAt = performance.now()
        return [node('passkey_request_options', {}, Buffer.from(JSON.stringify(this.options)))]
      case 'ref':
        this.#ref = `2@${randomBytes(24).toString('base64')}`
        return [node('ref', {}, Buffer.from(this.#ref))]
      case 'passkey_prologue':
        return this.#prologue(query)
      case 'companion_nonce':
        return this.#reveal(bytesOf(query))
      default:
        return this.#pairingRequest(bytesOf(query))
    }
  }

  /** Step 5. @param {Node} query @returns {Answer} */
  #prologue(query) {
    const { phone, candidate } = this.connection
    const [credential, assertion, payload] = ['credential_id', 'webauthn_assertion', 'prologue_payload'].map((tag) => bytesOf(child(query, tag)))
    if (!credential || !assertion || !payload) return REFUSED
    const wrong = attempt(() => phone.passkey.wrongIn(credential, JSON.parse(assertion.toString()), this.challenge), 'unreadable assertion')
    if (wrong) return this.#refused(wrong)
    if (performance.now() > this.#challengeAt + phone.realism.ms('passkey_ms')) return this.#refused('challenge expired')
    this.challenge = '' // valid once
    const { companionEphemeralIdentity, commitment } = proto.ProloguePayload.decode(payload)
    this.#identity = Buffer.from(companionEphemeralIdentity ?? [])
    this.#companion = proto.CompanionEphemeralIdentity.decode(this.#identity)
    this.#commitment = Buffer.from(commitment?.hash ?? [])
    if (!this.#ref || this.#companion.ref !== this.#ref) return this.#refused('ref')
    if (this.#companion.publicKey?.length !== KEY_BYTES || this.#commitment.length !== KEY_BYTES) return this.#refused('length')
    if (this.#companion.deviceType !== candidate?.deviceType) return this.#refused('device type')
    const proof = child(query, 'pairing_handoff_proof')
    this.proof = !proof ? 'absent' : bytesOf(proof).equals(handoffProof(this.advSecret, payload)) ? 'good' : 'wrong'
    if (this.proof === 'wrong') return this.#refused('proof')
    this.stage = 'prologue'
    if (!['silence', 'early'].includes(this.variant.continuation ?? '')) setImmediate(() => this.#continue())
    return []
  }

  /** Step 7. @param {Buffer} nonce @returns {Answer} */
  #reveal(nonce) {
    if (this.stage !== 'prologue') return this.#refused('nonce before the prologue')
    if (nonce.length !== KEY_BYTES || !commitmentOf(this.#identity, nonce).equals(this.#commitment)) return this.#refused('commitment')
    this.code = comparisonCode(nonce, this.#ephemeral.public, this.#nonce)
    this.stage = 'compare'
    return []
  }

  /** Step 8. @param {Buffer} bytes @returns {Answer} */
  #pairingRequest(bytes) {
    const { candidate } = this.connection
    if (this.stage !== 'compare') return this.#refused('pairing request before the nonce')
    if (this.proof === 'absent' && !this.confirmed) return this.#refused('not confirmed')
    const { encryptedPayload, iv } = proto.EncryptedPairingRequest.decode(bytes)
    const shared = Curve.sharedKey(this.#ephemeral.private, this.#companion?.publicKey ?? Buffer.alloc(0))
    const key = pairingKey(shared, Number(this.#companion?.deviceType), this.#ref)
    const plain = attempt(() => openPairingRequest(encryptedPayload ?? Buffer.alloc(0), iv ?? Buffer.alloc(0), key), null)
    if (!plain) return this.#refused('sealed with another key')
    const { companionPublicKey, companionIdentityKey, advSecret } = proto.PairingRequest.decode(plain)
    if (!candidate?.noiseKey.equals(companionPublicKey ?? Buffer.alloc(0))) return this.#refused('noise key')
    if (!candidate.identity.equals(companionIdentityKey ?? Buffer.alloc(0))) return this.#refused('identity key')
    const secret = Buffer.from(advSecret ?? [])
    if (secret.length !== KEY_BYTES || secret.equals(this.advSecret)) return this.#refused('secret')
    this.stage = 'linking'
    if (this.variant.silence !== 'pair-success') setImmediate(() => void this.#finish(secret))
    return []
  }

  /** @param {Buffer} advSecret */
  async #finish(advSecret) {
    await this.link(advSecret).then(() => { this.stage = 'linked' }, (error) => { this.problems.push(String(error.message)) })
    this.connection.phone.changes.emit('change')
  }

  /** The socket ends, now. */
  cutOff() {
    this.connection.reset()
    return {}
  }

  /** @param {string} why @returns {Answer} */
  #refused(why) {
    this.problems.push(why)
    this.connection.phone.log.add('passkey_problem', { connection: this.connection.number, why })
    return REFUSED
  }

  toJSON() {
    const { stage, code, proof, problems, acks, confirmed, options } = this
    return { stage, code, proof, problems, acks, confirmed, options }
  }
}

/** @template T, U @param {() => T} job @param {U} otherwise @returns {T | U} */
function attempt(job, otherwise) {
  try {
    return job()
  } catch {
    return otherwise
  }
}

/** The last attempt. @param {import('./phone.js').Phone} phone */
export function gateOf(phone) {
  if (!phone.gate) throw new ControlError(409, 'no client is at the passkey gate')
  return phone.gate
}

/** How the next attempt goes. @param {import('./phone.js').Phone} phone @param {Record<string, string>} request */
export function setPasskeyVariant(phone, request) {
  for (const [name, value] of Object.entries(request)) {
    if (!(/** @type {Record<string, string[]>} */ (PASSKEY_VARIANTS)[name] ?? []).includes(value)) throw new ControlError(400, `no passkey variant ${name} ${value}`)
  }
  phone.passkeyVariant = { ...request }
  return phone.passkeyVariant
}
