/**
 * Everything of Baileys and libsignal that we depend on and that neither promises: names, log texts, events, caches.
 *
 * The other files take these names from here. `checkPackages` runs at start, `checkSocket` on every new socket; either
 * throws an error that names what is missing. `test/internals.test.js` runs both against the installed packages.
 * This module imports neither package: signatures must be replaced before Baileys loads.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

/** The Baileys version whose modules we read; `lean.js` leaves parts of it out, and of no other. */
export const BAILEYS_VERSION = '7.0.0-rc14'

/** The libsignal version whose `src/curve.js` we read; `curve.js` replaces a function of it, and of no other. */
export const LIBSIGNAL_VERSION = '6.0.0'
/** sha256 of that file: notices a release that was patched under the same number. */
export const LIBSIGNAL_CURVE_SHA256 = 'a45c682103f1ab047a24497db2175dec5605495d8c0f4c11354b347d31950f6a'

/** sha256 of the files whose methods `key_steps.js` replaces. */
const CIPHERS = Object.freeze({
  'libsignal/src/session_cipher.js': '031b3282489ffec6a0cab23520bdf956a5bf4d15c57cb868e89fa6643255cd2b',
  'libsignal/src/session_record.js': '604d6d8ded9d316f7e8367c45759f6449be743c5aabe142db3412eff4e89ab35',
  'baileys/lib/Signal/Group/group_cipher.js': 'd05f353e5cf2aa698ed73d59d7c6fcef6d3b7067052722fcd3b9e172d811c6ee',
})

/** sha256 of the generated types (`WAProto/index.js`) whose text `lean.js` takes apart. */
export const PROTOCOL_TYPES_SHA256 = '87c18c860e17ec66ecd5e1e5d4cf95a901bc4968d3318ad9238a66e20eee1684'

/** Baileys emits each incoming stanza on `sock.ws` under these names. */
export const STANZA = Object.freeze({
  message: 'CB:message',
  notification: 'CB:notification',
  success: 'CB:success',
  pairDevice: 'CB:iq,type:set,pair-device',
  offlinePreview: 'CB:ib,,offline_preview',
  offlineDone: 'CB:ib,,offline',
})

/** Baileys emits every stanza, whatever its tag, under this name first. */
export const ANY_STANZA = 'frame'

/**
 * The tags that Baileys answers itself or that need no ack. WhatsApp sends others (`<status>`, since July 2026), and
 * Baileys drops them silently.
 */
export const TAGS_OF_BAILEYS = new Set([
  'message', 'receipt', 'notification', 'call', 'ack', 'iq', 'ib', 'presence', 'chatstate', 'success', 'failure',
  'stream:error', 'stream:features', 'xmlstreamend',
])

/** Tags of answers, and those of the stream itself: their arrival only shows that pings get through. */
export const TAGS_OF_ANSWERS = new Set([
  'ack', 'iq', 'ib', 'success', 'failure', 'stream:error', 'stream:features', 'xmlstreamend',
])

/** What Baileys logs, with the stanza's XML as `node`, when it gives a message up. */
export const LOG_GAVE_UP = 'error in handling message'

/** What Baileys logs, with the stanza's XML as `xml`, for each outgoing stanza; at level trace. */
export const LOG_SENT = 'xml send'

/** The start of the error of Baileys' group cipher about a message older than the last one it read. */
export const OLD_COUNTER = 'Received message with old counter'

/** The failure that Baileys records for a message with nothing to decrypt. */
export const NOTHING_TO_DECRYPT = 'Message absent from node'

/** The module in the stack of an error when a Noise frame does not decrypt. */
export const NOISE_MODULE = 'noise-handler'

/** Baileys waits for this event, without end, after it asked the phone to upload a file again. */
export const MEDIA_UPDATE = 'messages.media-update'

/**
 * Events that Baileys buffers while it works on stanzas. It scans the whole buffer at each new one, and neither it nor
 * the sidecar listens to the result.
 */
export const BUFFERED_EVENTS = new Set([
  'messaging-history.set', 'chats.upsert', 'chats.update', 'chats.delete', 'contacts.upsert', 'contacts.update',
  'messages.upsert', 'messages.update', 'messages.delete', 'messages.reaction', 'message-receipt.update',
  'groups.update',
])

/** Files of Baileys that listen to events. */
const LISTENERS = ['socket', 'chats', 'groups', 'communities', 'messages-recv', 'messages-send', 'newsletter', 'business']

/** Socket options that take a cache, with Baileys' own lifetimes in seconds (its `DEFAULT_CACHE_TTLS`). */
export const CACHE_OPTIONS = Object.freeze({
  msgRetryCounterCache: 3_600,
  placeholderResendCache: 3_600,
  callOfferCache: 300,
  userDevicesCache: 300,
})

/** Caches of `sock.messageRetryManager` that keep plain text and timers for minutes after the socket has closed. */
export const RETRY_CACHES = /** @type {const} */ ([
  'recentMessagesMap', 'sessionRecreateHistory', 'retryCounters', 'baseKeys',
])

/**
 * @typedef {object} Packages
 * @property {Record<string, any>} baileys the module
 * @property {Record<string, any>} curve libsignal's `src/curve.js`
 * @property {(file: string) => string} source the text of a file below Baileys' `lib/`; '' if there is none
 * @property {(file: string) => string} hash sha256 of a package's file; '' if there is none
 *
 * @typedef {object} Internal
 * @property {string} name
 * @property {string} use what we need it for
 * @property {(where: any) => boolean} found
 */

const WHAT_TO_DO = 'Install the pinned version (make setup), or adapt lib/baileys/internals.js '
  + '(docs/operations.md, "Updating Baileys")'

/** @param {any} object @param {...string} names */
const hasMethods = (object, ...names) => names.every((name) => typeof object?.[name] === 'function')
const isWritable = (/** @type {any} */ object, /** @type {string} */ name) =>
  Boolean(object && Object.getOwnPropertyDescriptor(object, name)?.writable)

/** @type {(Internal & {found: (packages: Packages) => boolean})[]} */
export const IN_PACKAGES = [
  {
    name: 'libsignal: src/curve.js, verifySignature',
    use: 'replaced by a strict, native check before Baileys copies it',
    found: ({ curve }) => hasMethods(curve, 'verifySignature') && isWritable(curve, 'verifySignature'),
  },
  ...Object.entries(CIPHERS).map(([file, known]) => ({
    name: `${file} as it was read`,
    use: 'its methods are replaced, to bound what one stanza may cost',
    found: (/** @type {Packages} */ { hash }) => hash(file) === known,
  })),
  {
    name: 'Curve.verify, Curve.sharedKey',
    use: "let the handshake of a local server pass (WA_STRICT_CERTS=false), and see the server's static key",
    found: ({ baileys: { Curve } }) => hasMethods(Curve, 'verify', 'sharedKey')
      && isWritable(Curve, 'verify') && isWritable(Curve, 'sharedKey'),
  },
  {
    name: 'proto.CertChain.decode',
    use: "sees the server's certificate chain in the handshake",
    found: ({ baileys }) => isWritable(baileys.proto?.CertChain, 'decode'),
  },
  {
    name: 'WA_CERT_DETAILS.PUBLIC_KEY',
    use: "set to the virtual phone's root key (WA_ROOT_KEY)",
    found: ({ baileys }) => isWritable(baileys.WA_CERT_DETAILS, 'PUBLIC_KEY'),
  },
  {
    name: 'DEFAULT_CONNECTION_CONFIG.makeSignalRepository',
    use: 'wrapped to see a plaintext before its receipt',
    found: ({ baileys }) => hasMethods(baileys.DEFAULT_CONNECTION_CONFIG, 'makeSignalRepository'),
  },
  {
    name: 'decodeMessageNode, unpadRandomMax16, binaryNodeToString',
    use: 'read a stanza as Baileys does, and recognise the one that it logs',
    found: ({ baileys }) => hasMethods(baileys, 'decodeMessageNode', 'unpadRandomMax16', 'binaryNodeToString'),
  },
  {
    name: `the log text "${LOG_GAVE_UP}"`,
    use: 'the only word that Baileys gives a stanza up: its reason is journaled then',
    found: (/** @type {Packages} */ { source }) => {
      const lines = source('Socket/messages-recv.js').split('\n').filter((line) => line.includes(`'${LOG_GAVE_UP}'`))
      return lines.some((line) => line.includes('logger.error(') && line.includes('node: binaryNodeToString(node)'))
    },
  },
  {
    name: `the log text "${LOG_SENT}"`,
    use: 'counts the stanzas that got no answer',
    found: (/** @type {Packages} */ { source }) =>
      source('Socket/socket.js').includes(`logger.trace({ xml: binaryNodeToString(frame), msg: '${LOG_SENT}' })`),
  },
  {
    name: `the failure "${NOTHING_TO_DECRYPT}"`,
    use: 'the worker tells such a stanza from one that could not be decrypted',
    found: ({ baileys }) => baileys.NO_MESSAGE_FOUND_ERROR_TEXT === NOTHING_TO_DECRYPT,
  },
  {
    name: 'NACK_REASONS, MISSING_KEYS_ERROR_TEXT',
    use: 'what cannot be decrypted gets a plain ack, and what was decrypted before its receipt',
    found: ({ baileys }) => isWritable(baileys.NACK_REASONS, 'UnhandledError')
      && typeof baileys.MISSING_KEYS_ERROR_TEXT === 'string',
  },
  {
    name: `the module ${NOISE_MODULE}.js`,
    use: 'in the stack of an unhandled error: a frame could not be read, and the socket is ended',
    found: ({ source }) => {
      const text = source(`Utils/${NOISE_MODULE}.js`)
      // The chain must be decoded right after the server's static key was used: `certificates.js` relies on the order.
      return /decodeFrame/.test(text)
        && /sharedKey\(privateKey, decStaticContent\)[\s\S]{0,200}CertChain\.decode/.test(text)
    },
  },
  {
    name: `the stanza events ${Object.values(STANZA).join(', ')}`,
    use: 'message stanzas are held back and given to Baileys in order; the others tell how far the login is',
    found: ({ source }) =>
      Object.values(STANZA).every((event) =>
        ['Socket/socket.js', 'Socket/messages-recv.js'].some((file) => source(file).includes(`ws.on('${event}'`))),
  },
  {
    name: `the event "${ANY_STANZA}" for every stanza`,
    use: 'stanzas that Baileys does not know are answered',
    found: ({ source }) => source('Socket/socket.js').includes(`ws.emit('${ANY_STANZA}', frame)`),
  },
  {
    name: 'buildAckStanza',
    use: 'answers them, with the attributes that WhatsApp wants back',
    found: ({ baileys }) => hasMethods(baileys, 'buildAckStanza'),
  },
  {
    name: `the cache options ${Object.keys(CACHE_OPTIONS).join(', ')}`,
    use: 'shared by all sockets of the process, so that counts of retries outlive a socket',
    found: ({ source }) => {
      const text = ['chats', 'messages-recv', 'messages-send'].map((file) => source(`Socket/${file}.js`)).join('')
      return Object.keys(CACHE_OPTIONS).every((option) => text.includes(`config.${option}`))
    },
  },
  {
    name: 'the buffered events, to which Baileys does not listen itself',
    use: 'read when they are emitted, and kept out of a buffer that costs more the fuller it is',
    found: ({ source }) => {
      const buffer = source('Utils/event-buffer.js').split('const BUFFERABLE_EVENT_SET')[0]
      const sockets = LISTENERS.map((file) => source(`Socket/${file}.js`)).join('')
      return [...BUFFERED_EVENTS].every((event) =>
        buffer.includes(`'${event}'`) && !sockets.includes(`ev.on('${event}'`)) && !sockets.includes('ev.process(')
    },
  },
  {
    name: 'accountSyncCounter',
    use: 'Baileys does not fetch the collections of the app state',
    found: ({ source }) => source('Socket/chats.js').includes('authState.creds.accountSyncCounter > 0'),
  },
  {
    name: `the event ${MEDIA_UPDATE}`,
    use: 'ends the wait for a phone that does not answer a request for a file',
    found: ({ source }) => source('Socket/messages-send.js').includes(`bindWaitForEvent(ev, '${MEDIA_UPDATE}')`),
  },
]

/** Each looks at a new socket. @type {Internal[]} */
export const IN_SOCKET = [
  {
    name: 'sock.ev.emit',
    use: 'sees every event before it is buffered',
    found: (sock) => hasMethods(sock.ev, 'emit', 'on', 'off') && isWritable(sock.ev, 'emit'),
  },
  { name: 'sock.ws.emit', use: 'sees every stanza before Baileys does', found: (sock) => hasMethods(sock.ws, 'emit') },
  {
    name: 'sock.ws.socket (send, pause, resume, close, terminate)',
    use: 'holds outgoing frames, and stops reading when the log is full',
    found: (sock) => hasMethods(sock.ws?.socket, 'send', 'pause', 'resume', 'close', 'terminate', 'on'),
  },
  {
    name: 'sock.authState.keys (transaction, isInTransaction, set)',
    use: 'journals what a transaction changed before a frame that it sends',
    found: (sock) => hasMethods(sock.authState?.keys, 'transaction', 'isInTransaction', 'set'),
  },
  {
    name: 'sock.signalRepository (decryptMessage, decryptGroupMessage, processSenderKeyDistributionMessage)',
    use: 'joins plaintexts and key changes to their stanza',
    found: (sock) =>
      hasMethods(sock.signalRepository, 'decryptMessage', 'decryptGroupMessage', 'processSenderKeyDistributionMessage'),
  },
  {
    name: `sock.messageRetryManager (${RETRY_CACHES.join(', ')})`,
    use: 'emptied at the end of a connection; asked before each retry receipt; counts are shared by all sockets',
    found: (sock) => hasMethods(sock.messageRetryManager, 'hasExceededMaxRetries')
      && RETRY_CACHES.every((cache) => hasMethods(sock.messageRetryManager[cache], 'clear'))
      && isWritable(sock.messageRetryManager, 'retryCounters'),
  },
  {
    name: 'sock.sendReceipt, sock.sendRetryRequest, sock.sendNode, sock.generateMessageTag',
    use: 'receipts for redeliveries and suspects, acks and the logout',
    found: (sock) => hasMethods(sock, 'sendReceipt', 'sendRetryRequest', 'sendNode', 'generateMessageTag'),
  },
  {
    name: 'sock.resyncAppState',
    use: "fetches the account's own name",
    found: (sock) => hasMethods(sock, 'resyncAppState'),
  },
]

/** The installed Baileys lacks something that the sidecar needs. */
export class MissingInternals extends Error {
  /** @param {Internal[]} missing @param {string} version of the Baileys that lacks them */
  constructor(missing, version) {
    const lines = missing.map(({ name, use }) => `Baileys ${version} lacks ${name}. Use: ${use}`)
    super(lines.join('\n'))
    this.name = 'MissingInternals'
    this.lines = [...lines, WHAT_TO_DO]
  }
}

/** @param {Internal[]} internals @param {any} where */
function check(internals, where) {
  const missing = internals.filter(({ found }) => !found(where))
  if (missing.length > 0) throw new MissingInternals(missing, installedVersion())
}

/** @param {Packages} packages @throws {MissingInternals} */
export const checkPackages = (packages) => check(IN_PACKAGES, packages)

/** @param {any} sock new, before anything of it is replaced @throws {MissingInternals} */
export const checkSocket = (sock) => check(IN_SOCKET, sock)

const require = createRequire(import.meta.url)
/** @returns {string} of Baileys; '' without one */
export function installedVersion() {
  try {
    return require('baileys/package.json').version
  } catch {
    return ''
  }
}

/** Why the sidecar cannot start with what is installed, and what to do. @param {any} error @returns {string[]} */
export function whyNot(error) {
  if (error instanceof MissingInternals) return error.lines
  return [`Baileys ${installedVersion() || '(none)'} cannot be loaded: ${error?.message ?? error}`, WHAT_TO_DO]
}

/** What is installed, for `checkPackages`. @returns {Promise<Packages>} */
export async function installedPackages() {
  const lib = new URL('.', import.meta.resolve('baileys'))
  return {
    baileys: await import('baileys'),
    curve: require('libsignal/src/curve.js'),
    source: (file) => {
      try {
        return readFileSync(new URL(file, lib), 'utf8')
      } catch {
        return ''
      }
    },
    hash: (file) => {
      try {
        return createHash('sha256').update(readFileSync(require.resolve(file))).digest('hex')
      } catch {
        return ''
      }
    },
  }
}
