/**
 * How media is encrypted: one key gives the cipher, the MAC, and the key of a re-upload's answer.
 * Source: docs/whatsapp.md, "Media".
 */
import { createCipheriv, createDecipheriv, createHash, createHmac, hkdfSync, randomBytes } from 'node:crypto'
import { proto } from 'baileys'

const MAC_BYTES = 10
const TAG_BYTES = 16

/** The name in the key derivation, by kind. @type {Record<string, string>} */
const INFO = { image: 'Image', sticker: 'Image', video: 'Video', gif: 'Video', ptv: 'Video', audio: 'Audio', voice: 'Audio', document: 'Document', history: 'History', app_state: 'App State' }

/** @param {string} kind */
export const isMediaKind = (kind) => kind in INFO && kind !== 'history' && kind !== 'app_state'

/** @param {Uint8Array} data */
export const sha256 = (data) => createHash('sha256').update(data).digest()

/** @param {Buffer} plain @param {string} kind @param {Buffer} [mediaKey] */
export function encryptMedia(plain, kind, mediaKey = randomBytes(32)) {
  const keys = Buffer.from(hkdfSync('sha256', mediaKey, Buffer.alloc(0), `WhatsApp ${INFO[kind]} Keys`, 112))
  const iv = keys.subarray(0, 16)
  const cipher = createCipheriv('aes-256-cbc', keys.subarray(16, 48), iv)
  const ciphertext = Buffer.concat([cipher.update(plain), cipher.final()])
  const mac = createHmac('sha256', keys.subarray(48, 80)).update(iv).update(ciphertext).digest().subarray(0, MAC_BYTES)
  const blob = Buffer.concat([ciphertext, mac])
  return { blob, mediaKey, fileSha256: sha256(plain), fileEncSha256: sha256(blob), fileLength: plain.length }
}

/** @param {Uint8Array} mediaKey */
const retryKey = (mediaKey) => Buffer.from(hkdfSync('sha256', mediaKey, Buffer.alloc(0), 'WhatsApp Media Retry Notification', 32))

/** What the client asks for; throws if it does not have the media's key. @param {Buffer} sealed @param {Buffer} iv @param {Uint8Array} mediaKey @param {string} id */
export function openRetryRequest(sealed, iv, mediaKey, id) {
  const end = sealed.length - TAG_BYTES
  const decipher = createDecipheriv('aes-256-gcm', retryKey(mediaKey), iv).setAAD(Buffer.from(id)).setAuthTag(sealed.subarray(end))
  return proto.ServerErrorReceipt.decode(Buffer.concat([decipher.update(sealed.subarray(0, end)), decipher.final()]))
}

/** @param {proto.IMediaRetryNotification} answer @param {Uint8Array} mediaKey @param {string} id */
export function sealRetryAnswer(answer, mediaKey, id) {
  const iv = randomBytes(12)
  const cipher = createCipheriv('aes-256-gcm', retryKey(mediaKey), iv).setAAD(Buffer.from(id))
  const plain = proto.MediaRetryNotification.encode(answer).finish()
  return { iv, sealed: Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()]) }
}
