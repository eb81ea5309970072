/** A Baileys that lacks what we lean on is refused, by name: tried on the installed packages and on worse. */
import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import { test } from 'node:test'
import { initAuthCreds, makeWASocket } from 'baileys'
import {
  BAILEYS_VERSION, checkPackages, checkSocket, IN_PACKAGES, IN_SOCKET, installedPackages, installedVersion,
  MissingInternals,
} from '../lib/baileys/internals.js'
import { makeLogger } from '../lib/logger.js'

const installed = await installedPackages()

/** A stock socket to a server that never says a word. @param {(sock: any) => void} look */
async function withSocket(look) {
  const server = createServer((socket) => socket.on('error', () => {}))
  await new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(undefined)))
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address())
  const keys = { get: async () => ({}), set: async () => {} }
  const sock = makeWASocket({
    waWebSocketUrl: `ws://127.0.0.1:${port}`, auth: { creds: initAuthCreds(), keys }, logger: makeLogger('silent'),
  })
  try {
    look(sock)
  } finally {
    /** @type {any} */ (sock.ws).socket.terminate()
    await sock.end(undefined)
    server.close()
  }
}

/** The names that a check misses. @param {() => void} check @returns {string} */
function missing(check) {
  try {
    check()
  } catch (error) {
    if (error instanceof MissingInternals) return error.message
    throw error
  }
  return ''
}

test('the installed Baileys is the one that was read: see docs/operations.md, "Updating Baileys"', () => {
  assert.equal(installedVersion(), BAILEYS_VERSION)
})

test('the installed Baileys and libsignal have all that we lean on', async () => {
  checkPackages(installed)
  await withSocket(checkSocket)
})

/** A copy without one name. @param {Record<string, any>} object @param {string} name */
const without = (object, name) => {
  const { [name]: _, ...rest } = object
  return rest
}
/** A file of Baileys' sockets without one text. @param {string} file @param {string} text */
const otherSource = (file, text) => ({
  ...installed,
  source: (/** @type {string} */ name) =>
    name === `Socket/${file}.js` ? installed.source(name).replaceAll(text, '…') : installed.source(name),
})
/** One file is not the one that was read. @param {string} file */
const otherFile = (file) => ({
  ...installed, hash: (/** @type {string} */ name) => (name === file ? 'another' : installed.hash(name)),
})
const { baileys, curve } = installed
const frozen = Object.freeze({ ...baileys.Curve })

/** @param {Record<string, any>} changes of the module */
const otherBaileys = (changes) => ({ ...installed, baileys: { ...baileys, ...changes } })
const noNoise = { ...installed, source: (/** @type {string} */ name) => installed.source(name.replace('noise', '…')) }

/** @param {string} name */
const listening = (name) =>
  installed.source(name) + (name === 'Socket/chats.js' ? "ev.on('messages.upsert', () => {})" : '')

/** What a new version may change → a word of the sentence that says so. */
const OTHER_PACKAGES = /** @type {[string, any, string][]} */ ([
  ['libsignal signs elsewhere', { ...installed, curve: without(curve, 'verifySignature') }, 'verifySignature'],
  ['another session cipher', otherFile('libsignal/src/session_cipher.js'), 'libsignal/src/session_cipher.js'],
  ['another session record', otherFile('libsignal/src/session_record.js'), 'libsignal/src/session_record.js'],
  ['another group cipher', otherFile('baileys/lib/Signal/Group/group_cipher.js'), 'group_cipher.js'],
  ['Curve cannot be changed', otherBaileys({ Curve: frozen }), 'Curve.verify'],
  ['the certificates are read elsewhere', otherBaileys({ proto: {} }), 'CertChain'],
  ['another name for the root key', otherBaileys({ WA_CERT_DETAILS: {} }), 'WA_CERT_DETAILS'],
  ['no default signal repository', otherBaileys({ DEFAULT_CONNECTION_CONFIG: {} }), 'makeSignalRepository'],
  ['no decodeMessageNode', otherBaileys({ decodeMessageNode: undefined }), 'decodeMessageNode'],
  ['another log text', otherSource('messages-recv', 'error in handling message'), 'the log text'],
  ['another log text of a stanza', otherSource('socket', 'xml send'), 'xml send'],
  ['the log text without its stanza', otherSource('messages-recv', 'node: binaryNodeToString(node)'), 'the log text'],
  ['another failure', otherBaileys({ NO_MESSAGE_FOUND_ERROR_TEXT: 'empty' }), 'the failure'],
  ['nacks that cannot be changed', otherBaileys({ NACK_REASONS: Object.freeze({ UnhandledError: 500 }) }), 'NACK_REASONS'],
  ['the noise handler in another file', noNoise, 'noise-handler'],
  ['messages under another event', otherSource('messages-recv', 'CB:message'), 'CB:message'],
  ['the end of the backlog under another event', otherSource('socket', 'CB:ib,,offline'), 'CB:ib,,offline'],
  ['stanzas of any tag under another event', otherSource('socket', "emit('frame', frame)"), 'the event "frame"'],
  ['no buildAckStanza', otherBaileys({ buildAckStanza: undefined }), 'buildAckStanza'],
  ['another cache option', otherSource('messages-recv', 'config.msgRetryCounterCache'), 'msgRetryCounterCache'],
  ['a listener to a buffered event', { ...installed, source: listening }, 'the buffered events'],
  ['another count of fetches', otherSource('chats', 'accountSyncCounter'), 'accountSyncCounter'],
  ['another event for a file', otherSource('messages-send', 'messages.media-update'), 'messages.media-update'],
])

for (const [change, packages, word] of OTHER_PACKAGES) {
  test(`named at start: ${change}`, () => {
    const message = missing(() => checkPackages(packages))
    assert.match(message, /^Baileys \S+ lacks /)
    assert.ok(message.includes(word), message)
    assert.equal(message.split('\n').length, 1, 'nothing else is missing')
  })
}

/** What a socket may lack → a word of the sentence. */
const OTHER_SOCKETS = /** @type {[string, (sock: any) => object, string][]} */ ([
  ['an emitter that cannot be replaced', ({ ev }) => ({ ev: Object.freeze({ ...ev }) }), 'sock.ev.emit'],
  ['stanzas that are not emitted', ({ ws }) => ({ ws: { socket: ws.socket } }), 'sock.ws.emit'],
  ['another WebSocket', ({ ws }) => ({ ws: { emit: ws.emit, socket: { send: ws.socket.send } } }), 'sock.ws.socket'],
  ['keys without transactions', ({ authState: { keys } }) =>
    ({ authState: { keys: without(keys, 'isInTransaction') } }), 'sock.authState.keys'],
  ['another name for the decryption', ({ signalRepository }) =>
    ({ signalRepository: without(signalRepository, 'decryptGroupMessage') }), 'sock.signalRepository'],
  ['another cache of messages', ({ messageRetryManager }) =>
    ({ messageRetryManager: without(messageRetryManager, 'recentMessagesMap') }), 'sock.messageRetryManager'],
  ['no receipts', () => ({ sendReceipt: undefined }), 'sock.sendReceipt'],
  ['no app state', () => ({ resyncAppState: undefined }), 'sock.resyncAppState'],
])

for (const [change, alter, word] of OTHER_SOCKETS) {
  test(`named at the connection: ${change}`, () => withSocket((sock) => {
    const message = missing(() => checkSocket({ ...sock, ...alter(sock) }))
    assert.ok(message.includes(word), message)
    assert.equal(message.split('\n').length, 1, 'nothing else is missing')
  }))
}

test('every entry of the list has a case above', () => {
  const messages = OTHER_PACKAGES.map(([, packages]) => missing(() => checkPackages(packages))).join('\n')
  for (const { name } of IN_PACKAGES) assert.ok(messages.includes(name), name)
  assert.deepEqual(
    OTHER_SOCKETS.filter(([, , word]) => !IN_SOCKET.some(({ name }) => name.startsWith(word))), [])
  assert.equal(OTHER_SOCKETS.length, IN_SOCKET.length)
})
