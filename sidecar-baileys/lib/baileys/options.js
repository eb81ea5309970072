/** The options of every Baileys socket: receive only, live only (docs/whatsapp.md, "Options"). */
import { proto } from 'baileys'
import { sharedCaches } from './caches.js'

const { INITIAL_BOOTSTRAP } = proto.HistorySync.HistorySyncType

/**
 * @typedef {object} ConnectParams of `connect` (docs/protocol.md)
 * @property {number} epoch
 * @property {[string, string, string]} browser
 * @property {[number, number, number] | null} version
 * @property {string | null} socket_url
 * @property {string | null} root_key base64, 32 bytes
 * @property {number} offline_hold_ms
 * @property {boolean} strict_certs
 * @property {boolean} nack_undecryptable
 * @property {number} max_log_bytes
 * @property {number | null} qr_timeout_ms
 * @property {number | null} keep_alive_ms
 */

/** @param {ConnectParams} params @returns {Partial<import('baileys').UserFacingSocketConfig>} */
export const socketOptions = (params) => ({
  ...(params.socket_url ? { waWebSocketUrl: params.socket_url } : {}),
  ...(params.version ? { version: params.version } : {}),
  ...(params.qr_timeout_ms ? { qrTimeout: params.qr_timeout_ms } : {}),
  ...(params.keep_alive_ms ? { keepAliveIntervalMs: params.keep_alive_ms } : {}),
  browser: params.browser,
  ...sharedCaches,
  markOnlineOnConnect: false,
  retryRequestDelayMs: 0, // Baileys would wait with all messages behind an undecryptable one
  syncFullHistory: false,
  // The first chunk of history carries the LID mappings. The worker stores no history.
  shouldSyncHistoryMessage: ({ syncType }) => syncType === INITIAL_BOOTSTRAP,
  getMessage: async () => undefined,
  transactionOpts: { maxCommitRetries: 1, delayBetweenTriesMs: 0 }, // a write into the map cannot fail
})
