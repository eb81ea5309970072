/** The history that a phone shares after pairing. A client that waits for it holds back its events until then. */
import { randomBytes } from 'node:crypto'
import { deflateSync } from 'node:zlib'
import { proto } from 'baileys'
import { encryptMedia } from './media-crypto.js'
import { ControlError } from './errors.js'
import { sendPeer } from './send.js'

/** @typedef {import('./phone.js').Phone} Phone */
/** @typedef {import('./line.js').Line} Line */

const { HistorySyncType } = proto.HistorySync
const { Type } = proto.Message.ProtocolMessage

/**
 * @param {Line} line
 * @param {{sync_type?: string, inline?: boolean, progress?: number, messages?: {from: string, to: string, text: string, t: number, id: string}[], generate?: {people: number, messages: number, to: string}}} request - `generate`: so many strangers, who have written so many messages
 */
export function sendHistory(line, { sync_type = 'INITIAL_BOOTSTRAP', inline = true, progress = 100, messages = [], generate }) {
  const { phone } = line
  if (generate) messages = [...messages, ...invent(phone, generate)]
  const syncType = HistorySyncType[/** @type {keyof typeof HistorySyncType} */ (sync_type)]
  if (syncType === undefined) throw new ControlError(400, `no history of type ${sync_type}`)
  const people = [phone.owner, ...phone.people.all]
  const packed = deflateSync(proto.HistorySync.encode({
    syncType, progress, chunkOrder: 1, conversations: conversations(phone, messages),
    pushnames: people.map((person) => ({ id: person.jid('pn'), pushname: person.name })),
    phoneNumberToLidMappings: people.map((person) => ({ pnJid: person.jid('pn'), lidJid: person.jid('lid') }))
  }).finish())
  const historySyncNotification = { syncType, progress, chunkOrder: 1, fileLength: packed.length, ...(inline ? { initialHistBootstrapInlinePayload: packed } : upload(phone, packed)) }
  return sendPeer(line, { protocolMessage: { type: Type.HISTORY_SYNC_NOTIFICATION, historySyncNotification } }, { queued: false })
}

/**
 * What a phone sends to a device that it has just linked: the key of the app state, then a little history. Some clients
 * (whaileys) take a history without the key for a broken link.
 * @param {Line} line
 */
export async function sendFirst(line) {
  await sendPeer(line, { protocolMessage: { type: Type.APP_STATE_SYNC_KEY_SHARE, appStateSyncKeyShare: { keys: [line.phone.appState.key] } } }, { queued: false })
  await sendHistory(line, {})
}

/** @param {Phone} phone @param {{people: number, messages: number, to: string}} wanted */
function invent(phone, { people, messages, to }) {
  const names = Array.from({ length: people }, (_, i) => phone.people.get(`Stranger ${i}`).name)
  const now = Math.floor(Date.now() / 1000)
  return Array.from({ length: messages }, (_, i) => ({ from: names[i % people] ?? 'me', to, text: `old ${i}`, t: now - messages + i, id: randomBytes(8).toString('hex').toUpperCase() }))
}

/** @param {Phone} phone @param {Buffer} packed */
function upload(phone, packed) {
  const { blob, mediaKey, fileSha256, fileEncSha256, fileLength } = encryptMedia(packed, 'history')
  return { mediaKey, fileSha256, fileEncSha256, fileLength, directPath: phone.media.put(blob, () => blob) }
}

/** @param {Phone} phone @param {{from: string, to: string, text: string, t: number, id: string}[]} messages */
function conversations(phone, messages) {
  const chats = [...new Set(messages.map(({ to }) => to))]
  return chats.map((id) => ({
    id,
    messages: messages.filter(({ to }) => to === id).map((one) => ({
      message: {
        key: { remoteJid: id, fromMe: one.from === 'me', id: one.id, participant: phone.people.get(one.from).jid('lid') },
        message: { conversation: one.text }, messageTimestamp: one.t
      }
    }))
  }))
}
