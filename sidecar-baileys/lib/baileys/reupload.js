/** Asking the phone to upload a file anew: Baileys' own request, with an end. */
import { Boom } from '@hapi/boom'
import { proto } from 'baileys'
import { messageToJson } from './serial.js'

/** The phone is asleep or off-line; the worker asks again another time. */
const REFRESH_TIMEOUT_MS = 20_000

/**
 * @param {any} sock
 * @param {{key: object, content: object}} message
 * @param {number} [patience] milliseconds
 * @returns {Promise<object>} the content with a new `directPath`
 * @throws {Boom} 408 if the phone does not answer
 */
export async function reupload(sock, { key, content }, patience = REFRESH_TIMEOUT_MS) {
  // Baileys would listen for the answer, and hold the message, until the socket ends.
  const giveUp = () => sock.ev.emit('messages.media-update', [{ key, error: new Boom('the phone did not answer', { statusCode: 408 }) }])
  const timer = setTimeout(giveUp, patience)
  try {
    return messageToJson((await sock.updateMediaMessage({ key, message: proto.Message.fromObject(content) })).message)
  } catch (error) {
    giveUp() // it listens on when the request could not be sent
    throw error
  } finally {
    clearTimeout(timer)
  }
}
