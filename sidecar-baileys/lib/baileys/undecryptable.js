/**
 * Our answers to a message that could not be decrypted (docs/whatsapp.md, "The real server in 2026").
 *
 * First the retry receipt, while there is hope, then a plain ack, as whatsmeow and whatsapp-rust do. Stock Baileys
 * sends NACK 500 instead. A stanza that was decrypted before, by its hash, gets the receipt of a good message.
 */
import { MISSING_KEYS_ERROR_TEXT, NACK_REASONS } from 'baileys'
import { OLD_COUNTER } from './internals.js'
import { retryCounts } from './caches.js'

const UNHANDLED_ERROR = 500

/** @param {boolean} nack with an error, as stock Baileys does; for all sockets of this process */
export function answerUndecryptable(nack) {
  // Without a code `buildAckStanza` makes a plain ack.
  Object.assign(NACK_REASONS, { UnhandledError: nack ? UNHANDLED_ERROR : undefined })
}

/**
 * Retry counts outlive the socket, and one sender cannot use up those of another's message with the same id.
 * @param {any} manager `sock.messageRetryManager`
 * @param {(id: string) => string} name of the message that Baileys asks for under this id
 */
export function keepRetryCounts(manager, name) {
  if (!manager) return
  manager.retryCounters = {
    ...retryCounts,
    get: (/** @type {string} */ id) => retryCounts.get(name(id)),
    set: (/** @type {string} */ id, /** @type {number} */ count) => retryCounts.set(name(id), count),
  }
}

/**
 * The key of this ciphertext is gone: it was used, or dropped among too many skipped ones.
 * @param {any} error
 * @returns {boolean}
 */
export const isOldCounter = (error) =>
  error?.message === MISSING_KEYS_ERROR_TEXT || String(error?.message).startsWith(OLD_COUNTER)
