/** Asks the phone to upload a file again: Baileys' own request, with a time-out. */
import { Boom } from '@hapi/boom'
import { proto } from 'baileys'
import { MEDIA_UPDATE } from './internals.js'
import { messageToJson } from './serial.js'

/** The phone may be asleep or offline; the worker asks again later. */
const REFRESH_TIMEOUT_MS = 20_000

/**
 * @param {any} sock
 * @param {{key: object, content: object}} message
 * @param {number} [patience] milliseconds
 * @returns {Promise<object>} the message's content with a new `directPath`
 * @throws {Boom} 408: the phone does not answer
 */
export async function reupload(sock, { key, content }, patience = REFRESH_TIMEOUT_MS) {
  // Baileys would listen for the answer, and keep the message, until the socket ends.
  const error = new Boom('the phone did not answer', { statusCode: 408 })
  const giveUp = () => sock.ev.emit(MEDIA_UPDATE, [{ key, error }])
  const timer = setTimeout(giveUp, patience)
  try {
    return messageToJson((await sock.updateMediaMessage({ key, message: proto.Message.fromObject(content) })).message)
  } catch (error) {
    giveUp() // it keeps listening even if the request could not be sent
    throw error
  } finally {
    clearTimeout(timer)
  }
}
