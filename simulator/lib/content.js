/** What is inside a message: text, media with its blob on the media host, or any WAProto message. */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { proto } from 'baileys'
import { ControlError } from './errors.js'
import { encryptMedia, isMediaKind } from './media-crypto.js'

/** @typedef {ReturnType<typeof makeBlob>} Blob */
/** @typedef {{inner: proto.IMessage, mediatype?: string, type: string, blob: Blob | null}} Content */

const MEDIA_HOST = 'https://mmg.whatsapp.net' // what real senders write into `url`; clients go by directPath

/** Default MIME by kind. @type {Record<string, string>} */
const MIME = {
  image: 'image/jpeg', video: 'video/mp4', gif: 'video/mp4', ptv: 'video/mp4', audio: 'audio/mp4', voice: 'audio/ogg; codecs=opus',
  document: 'application/octet-stream', sticker: 'image/webp'
}

/** The `mediatype` of the `enc` node by kind. @type {Record<string, string>} */
const MEDIATYPE = { voice: 'ptt' }

/** @param {import('./phone.js').Phone} phone @param {Record<string, any>} request @returns {Content} */
export function makeContent(phone, request) {
  if (request.message) {
    /** @type {Blob[]} */
    const blobs = []
    const inner = proto.Message.fromObject(/** @type {any} */ (withFiles(phone, request.message, blobs)))
    const type = blobs.length > 0 ? 'media' : inner.reactionMessage ? 'reaction' : inner.pollCreationMessage ? 'poll' : 'text'
    return { inner: wrapped(inner, request.wrap), type, blob: blobs[0] ?? null }
  }
  if (request.forward_of) return forward(phone, request)
  if (request.media) {
    const blob = makeBlob(phone, request.media)
    return mediaContent(blob, request.media, request.wrap, request.media.caption ?? request.caption)
  }
  if (typeof request.text !== 'string') throw new ControlError(400, 'one of text, media, message, forward_of is needed')
  return { inner: wrapped({ conversation: request.text, messageContextInfo: contextInfo() }, request.wrap), type: 'text', blob: null }
}

const contextInfo = () => ({ messageSecret: randomBytes(32) })

/** The same blob and key once more, as a forward does. @param {import('./phone.js').Phone} phone @param {Record<string, any>} request */
function forward(phone, request) {
  const original = [...phone.sent.values()].findLast(({ id, blob }) => id === request.forward_of && blob)
  if (!original?.blob) throw new ControlError(404, `no media message ${request.forward_of}`)
  return mediaContent(original.blob, original.blob.media, request.wrap, request.caption)
}

/** @param {import('./phone.js').Phone} phone @param {Record<string, any>} media */
function makeBlob(phone, media) {
  if (!isMediaKind(media.kind)) throw new ControlError(400, `no media kind ${media.kind}`)
  const data = media.data_path ? readFileSync(media.data_path) : Buffer.from(String(media.data ?? ''), 'base64')
  const { blob, ...rest } = encryptMedia(data, media.kind)
  const impostor = () => encryptMedia(Buffer.alloc(rest.fileLength, 'other'), media.kind, rest.mediaKey).blob
  const { data: _data, ...facts } = media
  return { ...rest, directPath: phone.media.put(blob, impostor), media: facts, kind: String(media.kind) }
}

/**
 * A copy in which every object with `$media` (as under `/send`) has the fields of a file on the media host; what stands beside
 * `$media` is kept and wins.
 * @param {import('./phone.js').Phone} phone @param {unknown} value @param {Blob[]} blobs - gets those that were made
 * @returns {unknown}
 */
function withFiles(phone, value, blobs) {
  if (Array.isArray(value)) return value.map((item) => withFiles(phone, item, blobs))
  if (value === null || typeof value !== 'object') return value
  const { $media, ...rest } = /** @type {Record<string, any>} */ (value)
  const fields = Object.fromEntries(Object.entries(rest).map(([name, item]) => [name, withFiles(phone, item, blobs)]))
  if (!$media) return fields
  const blob = makeBlob(phone, $media)
  blobs.push(blob)
  const { width, height, seconds } = $media
  return { ...fileFields(blob, $media), width, height, seconds, ...fields }
}

/** @param {Blob} blob @param {Record<string, any>} media */
function fileFields({ kind, mediaKey, fileSha256, fileEncSha256, fileLength, directPath }, media) {
  return {
    url: `${media.host ? `https://${media.host}` : MEDIA_HOST}${directPath}`, directPath: media.no_direct_path ? undefined : directPath, mediaKey, fileSha256, fileEncSha256, fileLength, mimetype: media.mime ?? MIME[kind],
    mediaKeyTimestamp: Math.floor(Date.now() / 1000)
  }
}

/** @param {Blob} blob @param {Record<string, any>} media @param {string} [wrap] @param {string} [caption] @returns {Content} */
function mediaContent(blob, media, wrap, caption) {
  const { kind } = blob
  const file = fileFields(blob, media)
  const picture = { height: media.height, width: media.width, jpegThumbnail: media.thumbnail && Buffer.from(media.thumbnail, 'base64') }
  const inner = { ...byKind(kind, { file, picture, caption, media }), messageContextInfo: contextInfo() }
  return { inner: wrapped(inner, wrap), mediatype: MEDIATYPE[kind] ?? kind, type: 'media', blob }
}

/** @param {string} kind @param {Record<string, any>} parts @returns {proto.IMessage} */
function byKind(kind, { file, picture, caption, media }) {
  const { seconds } = media
  switch (kind) {
    case 'image':
      return { imageMessage: { ...file, ...picture, caption } }
    case 'sticker':
      return { stickerMessage: { ...file, height: picture.height, width: picture.width, isAnimated: Boolean(media.animated) } }
    case 'video':
    case 'gif':
      return { videoMessage: { ...file, ...picture, caption, seconds, gifPlayback: kind === 'gif' } }
    case 'ptv':
      return { ptvMessage: { ...file, ...picture, seconds } }
    case 'audio':
    case 'voice':
      return { audioMessage: { ...file, seconds, ptt: kind === 'voice' } }
    default:
      return { documentMessage: { ...file, caption, fileName: media.file_name ?? 'file', title: media.file_name, jpegThumbnail: picture.jpegThumbnail } }
  }
}

/** @param {proto.IMessage} message @param {string} [wrap] @returns {proto.IMessage} */
function wrapped(message, wrap) {
  const { messageContextInfo } = message
  switch (wrap) {
    case undefined:
      return message
    case 'ephemeral':
      return { ephemeralMessage: { message }, messageContextInfo }
    case 'view_once':
      return { viewOnceMessageV2: { message }, messageContextInfo }
    case 'document_with_caption':
      return { documentWithCaptionMessage: { message }, messageContextInfo }
    case 'edited':
      return { editedMessage: { message }, messageContextInfo }
    default:
      throw new ControlError(400, `no wrapping ${wrap}`)
  }
}
