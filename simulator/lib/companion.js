/** The linked device as the server knows it: its keys, its address, its uploaded pre-keys. Each pre-key is handed out once. */
import { proto } from 'baileys'
import { ControlError } from './errors.js'

/** @param {Uint8Array | null | undefined} bytes */
const toNumber = (bytes) => (bytes ? Buffer.from(bytes).readUIntBE(0, bytes.length) : 0)

export class Companion {
  /** @type {Map<number, Uint8Array>} */
  preKeys = new Map()
  jid = ''
  lid = ''
  pushName = ''
  historyReceipted = false

  /**
   * @param {number} generation - counts pairings: sessions with an earlier client are void
   * @param {Buffer} noiseKey - the client's static key: who it is, to the server
   * @param {proto.ClientPayload.IDevicePairingRegistrationData} data
   */
  constructor(generation, noiseKey, data) {
    this.generation = generation
    this.noiseKey = noiseKey
    this.registrationId = toNumber(data.eRegid)
    this.identity = Buffer.from(data.eIdent ?? [])
    /** @type {import('./device.js').Bundle['signedPreKey']} */
    this.signedPreKey = { keyId: toNumber(data.eSkeyId), publicKey: Buffer.from(data.eSkeyVal ?? []), signature: Buffer.from(data.eSkeySig ?? []) }
    this.deviceType = data.deviceProps ? proto.DeviceProps.decode(data.deviceProps).platformType ?? 0 : 0
    this.platform = data.deviceProps ? proto.DeviceProps.decode(data.deviceProps).os ?? '' : ''
  }

  /** The device number, e.g. 12 of `4915…:12@s.whatsapp.net`. */
  get device() {
    return Number(this.jid.split('@')[0]?.split(':')[1] ?? 0)
  }

  /** What a sender is given to start a session. @param {{oneTime?: boolean}} [options] @returns {import('./device.js').Bundle} */
  takeBundle({ oneTime = true } = {}) {
    if (!this.identity.length) throw new ControlError(409, 'the client has no identity yet')
    const [first] = oneTime ? this.preKeys : []
    if (first) this.preKeys.delete(first[0])
    return {
      registrationId: this.registrationId, identity: this.identity, signedPreKey: this.signedPreKey,
      preKey: first && { keyId: first[0], publicKey: first[1] }
    }
  }
}
