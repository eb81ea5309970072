/** The options of every Baileys socket: receive only, live only (docs/whatsapp.md, "Options"). */
import { Agent } from 'node:https'
import { proto } from 'baileys'
import { sharedCaches } from './caches.js'

const { FULL } = proto.HistorySync.HistorySyncType

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
 * @property {Record<string, import('./stanza.js').Treatment>} [suspects] by the hash of the first ciphertext
 */

/** The worker sets HTTPS_PROXY only if this socket is to leave through it. @param {string} proxy */
function throughProxy(proxy) {
  const [major, minor] = process.versions.node.split('.').map(Number)
  const able = major > 24 || (major === 24 && minor >= 5) || (major === 22 && minor >= 21)
  if (!able) throw new Error('HTTPS_PROXY needs Node 24.5 or 22.21: leave WORKER_NODE out')
  return new Agent(/** @type {any} */ ({ proxyEnv: { HTTPS_PROXY: proxy } }))
}

/** @param {ConnectParams} params @returns {Partial<import('baileys').UserFacingSocketConfig>} */
export const socketOptions = (params) => ({
  ...(params.socket_url ? { waWebSocketUrl: params.socket_url } : {}),
  ...(params.version ? { version: params.version } : {}),
  ...(params.qr_timeout_ms ? { qrTimeout: params.qr_timeout_ms } : {}),
  ...(params.keep_alive_ms ? { keepAliveIntervalMs: params.keep_alive_ms } : {}),
  ...(process.env.HTTPS_PROXY ? { agent: throughProxy(process.env.HTTPS_PROXY) } : {}),
  browser: params.browser,
  ...sharedCaches,
  markOnlineOnConnect: false,
  retryRequestDelayMs: 0, // Baileys would make all messages wait behind an undecryptable one
  syncFullHistory: false,
  // History carries LID mappings; without it, groups may never arrive. The worker stores none of it.
  shouldSyncHistoryMessage: ({ syncType }) => syncType !== FULL,
  getMessage: async () => undefined,
  transactionOpts: { maxCommitRetries: 1, delayBetweenTriesMs: 0 }, // a write into the map cannot fail
})
