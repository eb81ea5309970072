/**
 * How the senders' phones answer a client's request: for a message that it could not decrypt, for media that has
 * expired, or for a placeholder that the owner's phone can fill.
 */
import { proto } from 'baileys'
import { spoil } from './device.js'
import { openRetryRequest, sealRetryAnswer } from './media-crypto.js'
import { distribution, encryptPairwise, enqueueFor, findSent, sendPeer } from './send.js'
import { bytesOf, child, node } from './stanza.js'

/** @typedef {import('./connection.js').Connection} Connection */
/** @typedef {import('./stanza.js').Node} Node */
/** @typedef {import('./send.js').SentMessage} SentMessage */

const { ResultType } = proto.MediaRetryNotification
const { Type } = proto.Message.ProtocolMessage

/** A retry receipt: the sender encrypts the message again, for this device alone, with its sender key. @param {Connection} connection @param {Node} receipt */
export function answerRetry({ phone, line }, receipt) {
  const { to = '', participant, id = '' } = receipt.attrs
  const message = findSent(phone, to, participant, id)
  if (!line || !message || message.fault.never || phone.faults.has('senders_silent')) return
  void phone.inOrder(async () => {
    const count = child(receipt, 'retry')?.attrs.count ?? '1'
    const content = message.group ? { ...message.message, ...distribution(message) } : message.message
    const { type, ciphertext } = await encryptPairwise(line, message.device, content, { bundle: bundleIn(receipt) })
    const bad = Number(count) < Number(message.fault.retries ?? 1)
    const enc = node('enc', { v: '2', type, count, mediatype: message.mediatype }, bad ? spoil(type, ciphertext) : ciphertext)
    if (message.group && !bad) message.device.senderKey(message.group).sharedWith.add(line.companion.generation)
    enqueueFor(line, node(message.tag, message.attrs, [enc]))
    phone.log.add('retry_answered', { id, participant: participant ?? null, count: Number(count) })
  }).catch((error) => phone.log.add('retry_failed', { id, error: String(error) }))
}

/** The keys that a second retry brings along. @param {Node} receipt @returns {import('./device.js').Bundle | undefined} */
function bundleIn(receipt) {
  const keys = child(receipt, 'keys')
  if (!keys) return undefined
  const number = (/** @type {Node | undefined} */ parent) => { const bytes = bytesOf(child(parent, 'id')); return bytes.readUIntBE(0, bytes.length) }
  const [key, skey] = [child(keys, 'key'), child(keys, 'skey')]
  const registration = bytesOf(child(receipt, 'registration'))
  return {
    registrationId: registration.readUInt32BE(), identity: bytesOf(child(keys, 'identity')),
    signedPreKey: { keyId: number(skey), publicKey: bytesOf(child(skey, 'value')), signature: bytesOf(child(skey, 'signature')) },
    preKey: key && { keyId: number(key), publicKey: bytesOf(child(key, 'value')) }
  }
}

/** Media has expired: the phone uploads it again and tells the new path, sealed with the media's key. @param {Connection} connection @param {Node} receipt */
export function answerMediaRetry({ phone, line }, receipt) {
  if (!line) return
  const { id = '' } = receipt.attrs
  const rmr = child(receipt, 'rmr')
  const blob = (findSent(phone, rmr?.attrs.jid ?? '', rmr?.attrs.participant, id) ?? [...phone.sent.values()].findLast((one) => one.id === id))?.blob
  const path = blob?.directPath.split('?')[0] ?? ''
  const missing = Boolean(phone.media.takeFault('reupload_not_found', path))
  if (phone.media.takeFault('reupload_silence', path)) return
  const encrypted = child(receipt, 'encrypt')
  const understood = blob && attempt(() => openRetryRequest(bytesOf(child(encrypted, 'enc_p')), bytesOf(child(encrypted, 'enc_iv')), blob.mediaKey, id))
  phone.log.add('media_retry', { id, understood: Boolean(understood), path })
  const data = phone.media.blobs.get(path)
  if (!blob || !understood || !data) return enqueueFor(line, mediaRetry(phone, receipt, [node('error', { code: '2' })]))
  if (!missing) blob.directPath = phone.media.put(data, phone.media.impostors.get(path) ?? (() => data))
  const answer = missing ? { stanzaId: id, result: ResultType.NOT_FOUND } : { stanzaId: id, result: ResultType.SUCCESS, directPath: blob.directPath }
  const { sealed, iv } = sealRetryAnswer(answer, blob.mediaKey, id)
  enqueueFor(line, mediaRetry(phone, receipt, [node('encrypt', {}, [node('enc_p', {}, sealed), node('enc_iv', {}, iv)])]))
}

/** @template T @param {() => T} job @returns {T | undefined} */
function attempt(job) {
  try {
    return job()
  } catch {
    return undefined
  }
}

/** @param {import('./phone.js').Phone} phone @param {Node} receipt @param {Node[]} content */
function mediaRetry(phone, receipt, content) {
  const rmr = child(receipt, 'rmr')
  return node('notification', { from: phone.owner.jid('pn'), type: 'mediaretry', id: receipt.attrs.id, t: String(Math.floor(Date.now() / 1000)) }, [...content, node('rmr', rmr?.attrs)])
}

/** What the client writes itself: to the owner's phone, mostly. @param {Connection} connection @param {Node} stanza */
export function readClientMessage(connection, stanza) {
  const { phone } = connection
  const { id = '', to, category } = stanza.attrs
  phone.log.add('message_from_client', { connection: connection.number, id, to, category: category ?? null })
  connection.send(node('ack', { class: 'message', id, from: to, t: String(Math.floor(Date.now() / 1000)) }))
  if (category === 'peer') void fillPlaceholders(connection, stanza).catch((error) => phone.log.add('peer_failed', { id, error: String(error) }))
}

/** @param {Connection} connection @param {Node} stanza */
async function fillPlaceholders({ phone, line }, stanza) {
  if (!line) return
  const enc = child(stanza, 'enc')
  const padded = await phone.owner.device().decrypt(line.companion.generation, enc?.attrs.type ?? 'msg', bytesOf(enc))
  const read = proto.Message.decode(padded.subarray(0, -(padded.at(-1) ?? 0)))
  const request = (read.deviceSentMessage?.message ?? read).protocolMessage?.peerDataOperationRequestMessage
  phone.log.add('peer_request', { id: stanza.attrs.id, type: request?.peerDataOperationRequestType ?? null })
  const messages = (request?.placeholderMessageResendRequest ?? []).flatMap(({ messageKey }) => {
    const message = findSent(phone, messageKey?.remoteJid ?? '', messageKey?.participant ?? undefined, messageKey?.id ?? '')
    return message && (!message.fault.never || message.fault.phone) ? [message] : []
  })
  if (!messages.length || phone.faults.has('senders_silent')) return
  await sendPeer(line, {
    protocolMessage: {
      type: Type.PEER_DATA_OPERATION_REQUEST_RESPONSE_MESSAGE,
      peerDataOperationRequestResponseMessage: {
        peerDataOperationRequestType: request?.peerDataOperationRequestType, stanzaId: stanza.attrs.id,
        peerDataOperationResult: messages.map((message) => ({ placeholderMessageResendResponse: { webMessageInfoBytes: webMessage(message) } }))
      }
    }
  })
}

/** @param {SentMessage} message */
function webMessage({ id, chat, participant, inner, attrs }) {
  const key = { remoteJid: chat, fromMe: false, id, participant }
  return proto.WebMessageInfo.encode({ key, participant, message: inner, messageTimestamp: Number(attrs.t), pushName: attrs.notify }).finish()
}
