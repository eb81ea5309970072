import assert from 'node:assert/strict'
import { AsyncResource } from 'node:async_hooks'
import { createRequire } from 'node:module'
import { createServer } from 'node:net'
import { after, before, test } from 'node:test'
import { makeLogger } from '../lib/logger.js'
import { Mark } from '../lib/log/mark.js'
import { reupload } from '../lib/baileys/reupload.js'
import { Connection } from '../lib/baileys/socket.js'

const { PreKeyWhisperMessage } = createRequire(import.meta.url)('libsignal/src/protobufs.js')
const server = createServer((socket) => socket.on('error', () => {})) // accepts, and never says a word
/** @type {Connection[]} */
const made = []
before(() => new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(undefined))))
after(() => {
  for (const connection of made) connection.end()
  server.close()
})

/** A connection to nobody, whose commits are collected and answered, and whose frames are noted beside them. */
function connect() {
  /** @type {string[]} in the order in which it happened */
  const story = []
  /** @type {number[]} WhatsApp's time at the arrival of each stanza */
  const arrived = []
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address())
  const params = /** @type {any} */ ({ epoch: 1, browser: ['a', 'b', 'c'], version: null, socket_url: `ws://127.0.0.1:${port}`, root_key: null, offline_hold_ms: 1_000, strict_certs: true, nack_undecryptable: false, max_log_bytes: 16_000_000, qr_timeout_ms: null, keep_alive_ms: null })
  const connection = new Connection(params, null, {
    commit: async ({ keys = {}, creds, stanzas }) => {
      arrived.push(.../** @type {any[]} */ (stanzas).map((each) => each.arrived_at_ms + (each.server_time_offset_ms ?? NaN)))
      for (const [type, values] of Object.entries(keys)) for (const id of Object.keys(values)) story.push(`${type}/${id}`)
      if (creds) story.push('creds')
    },
    getKeys: async () => ({}),
    known: async () => [],
    monitored: () => true,
    notify: () => {},
    mark: new Mark(null),
    logger: makeLogger('silent'),
  })
  connection.gate.hooks.write = (frame) => { story.push(Buffer.from(frame).toString()) }
  made.push(connection)
  return { connection, story, arrived, sock: /** @type {any} */ (connection.sock) }
}

test('a frame that is sent within a transaction of the keys waits for what the transaction has changed', async () => {
  // As Baileys' retry receipt does it: it takes a new pre-key, tells of it in `creds.update`, sends it, and only then ends the transaction.
  const { connection, story, sock } = connect()
  const { keys } = sock.authState
  await keys.transaction(async () => {
    await keys.set({ 'pre-key': { 7: { public: Buffer.alloc(32), private: Buffer.alloc(32) } } })
    sock.ev.emit('creds.update', { additionalData: 'x'.repeat(1_000_000) }) // fills a batch: the pre-key does not share it
    sock.ws.socket.send(Buffer.from('the retry receipt'))
  }, 'me')
  await connection.gate.settled()
  assert.ok(story.includes('pre-key/7') && story.includes('the retry receipt'), story.join(' '))
  assert.ok(story.indexOf('pre-key/7') < story.indexOf('the retry receipt'), story.join(' → '))
})

test('an event that Baileys would buffer is read at once, and does not fill its buffer', async () => {
  const { connection, sock } = connect()
  /** @type {string[]} */
  const released = []
  sock.ev.process((/** @type {object} */ events) => released.push(...Object.keys(events)))
  /** @type {object[]} */
  const events = []
  const { commit } = connection.gate.hooks
  connection.gate.hooks.commit = (batch) => (events.push(...batch.events), commit(batch))
  const message = { key: { remoteJid: '1@g.us', id: 'A', participant: '2@lid' } }
  sock.ev.buffer()
  sock.ev.emit('messages.upsert', { type: 'notify', messages: [{ ...message, messageStubType: 22 }] })
  sock.ev.emit('call', [])
  await connection.gate.settled()
  sock.ev.flush()
  assert.deepEqual(events.map((/** @type {any} */ { type, stub_type: stub }) => [type, stub]), [['system', 'GROUP_CHANGE_ICON']])
  assert.ok(released.includes('call') && !released.includes('messages.upsert'), released.join(' '))
})

test('what runs on in the name of a transaction that has ended brings no old key back', async () => {
  const { connection, sock } = connect()
  const { keys } = sock.authState
  let later = () => {}
  await keys.transaction(async () => {
    await keys.set({ session: { 'ana.0': 'old' } })
    const woken = new Promise((resolve) => { later = () => resolve(undefined) })
    void woken.then(() => sock.ws.socket.send(Buffer.from('a straggler')))
  }, 'ana')
  await keys.set({ session: { 'ana.0': 'new' } })
  later()
  await connection.gate.settled()
  assert.deepEqual(await connection.keys.get('session', ['ana.0']), { 'ana.0': 'new' })
})

test('a key that is written while a stanza is being decrypted does not wait for that stanza, and a frame that tells of it waits for the key', async () => {
  const { connection, story, sock } = connect()
  const { keys } = sock.authState
  let asked = 0
  /** @type {() => void} */
  let answer = () => {}
  const answered = new Promise((resolve) => { answer = () => resolve(undefined) })
  // The stanza's own write, in its section, and a stranger's at the same moment.
  const original = connection.keys.set.bind(connection.keys)
  const stranger = AsyncResource.bind(async () => {
    await keys.set({ 'identity-key': { stranger: Buffer.alloc(33) } })
    sock.ws.socket.send(Buffer.from('it tells of the key'))
  })
  connection.keys.set = async (data) => {
    if ('identity-key' in data && !asked++) void stranger()
    return original(data)
  }
  connection.keys.hooks.read = async (type) => { if (type === 'session') await answered; return {} }
  connection.creds.me = { id: '111:5@s.whatsapp.net', lid: '999:5@lid' }
  connection.inbox.backlogComplete()
  const first = PreKeyWhisperMessage.encode({ registrationId: 1, signedPreKeyId: 1, baseKey: Buffer.alloc(33, 5), identityKey: Buffer.alloc(33, 5), message: Buffer.alloc(9) }).finish()
  const content = Buffer.concat([Buffer.of(0x33), first])
  sock.ws.emit('CB:message', { tag: 'message', attrs: { id: 'A1', from: '222@lid', t: '1790000000' }, content: [{ tag: 'enc', attrs: { type: 'pkmsg', v: '2' }, content }] })
  while (!story.includes('it tells of the key')) await new Promise(setImmediate)
  assert.equal(connection.gate.openSections, 1, 'the stanza still waits for its session')
  assert.deepEqual(story.slice(-2), ['identity-key/stranger', 'it tells of the key'])
  answer()
})

test('the mark moves over what is durable, and only when the backlog is', async (context) => {
  const { connection, sock } = connect()
  Object.assign(connection.creds, { me: { id: '111:5@s.whatsapp.net', lid: '999:5@lid' }, account: {} })
  /** @type {(() => void)[]} */
  const commits = []
  connection.gate.hooks.commit = () => new Promise((resolve) => { commits.push(() => resolve(undefined)) })
  const durable = async () => {
    while (commits.length === 0) await new Promise(setImmediate)
    const settled = connection.gate.settled()
    commits.splice(0).forEach((resolve) => resolve())
    await settled
  }
  const receive = (/** @type {string} */ tag, /** @type {any} */ attrs, /** @type {any[]} */ content = []) => {
    const node = { tag, attrs, content }
    sock.ws.emit('frame', node)
    sock.ws.emit(tag === 'ib' ? 'CB:ib,,offline' : `CB:${tag}`, node)
  }
  const message = (/** @type {string} */ id, more = {}) => receive('message', { id, from: '1@g.us', participant: '222@lid', t: '1790000000', ...more }, [{ tag: 'unavailable', attrs: { type: 'view_once' } }])
  /** Seconds that the mark is behind; null: there is none. */
  const behind = () => (connection.complete ? Math.round((Date.now() + 60_000 - connection.complete.to_ms) / 1000) : null)
  context.mock.timers.enable({ apis: ['Date'], now: 1_790_000_000_000 })
  sock.ws.removeAllListeners('CB:success') // what Baileys asks of a server after a login: there is none
  receive('success', { t: '1790000060' })
  message('A1', { offline: '1' })
  assert.equal(behind(), null, 'the backlog has not ended')
  receive('ib', {}, [{ tag: 'offline', attrs: { count: '1' } }])
  assert.equal(behind(), null, 'its last message is not durable')
  await durable()
  assert.equal(connection.complete?.epoch, 1)
  context.mock.timers.setTime(1_790_000_001_000)
  message('A2')
  context.mock.timers.setTime(1_790_000_101_000)
  receive('presence', {})
  const waiting = /** @type {any} */ (connection.complete).to_ms
  await durable()
  assert.equal(Math.round((/** @type {any} */ (connection.complete).to_ms - waiting) / 1000), 100, 'A2 held it')
  context.mock.timers.setTime(1_790_000_050_000)
  assert.equal(behind(), null, 'the clock was set back')
  connection.end()
  await connection.closed
  assert.equal(behind(), null, 'nothing more comes')
})

test('a re-upload that the phone does not answer, or that cannot be asked for, leaves nobody listening', async () => {
  const { connection, sock } = connect()
  connection.creds.me = { id: '111:5@s.whatsapp.net', lid: '999:5@lid' }
  let listening = 0
  const { on, off } = sock.ev
  sock.ev.on = (/** @type {any[]} */ ...args) => { listening += 1; return on(...args) }
  sock.ev.off = (/** @type {any[]} */ ...args) => { listening -= 1; return off(...args) }
  const message = { key: { remoteJid: '1@g.us', id: 'A1', participant: '222@lid' }, content: { imageMessage: { mediaKey: Buffer.alloc(32, 1).toString('base64') } } }
  await assert.rejects(reupload(sock, message, 20), /Connection Closed/)
  await new Promise(setImmediate)
  assert.equal(listening, 0, 'not sent')
  Object.defineProperty(sock.ws, 'isOpen', { value: true })
  await assert.rejects(reupload(sock, message, 20), (/** @type {any} */ error) => error.output.statusCode === 408)
  assert.equal(listening, 0, 'not answered')
})

test('a clock that is set while the connection is open does not make live messages old', async (context) => {
  const { connection, arrived, sock } = connect()
  Object.assign(connection.creds, { me: { id: '111:5@s.whatsapp.net', lid: '999:5@lid' }, account: {} })
  connection.inbox.backlogComplete()
  const receive = (/** @type {string} */ id) => sock.ws.emit('CB:message', { tag: 'message', attrs: { id, from: '1@g.us', participant: '222@lid', t: '1790000000' }, content: [{ tag: 'unavailable', attrs: { type: 'view_once' } }] })
  sock.ws.removeAllListeners('CB:success') // what Baileys asks of a server after a login: there is none
  context.mock.timers.enable({ apis: ['Date'], now: 1_790_000_000_000 })
  sock.ws.emit('CB:success', { tag: 'success', attrs: { t: '1790000060' } })
  receive('A1')
  context.mock.timers.setTime(1_790_000_000_000 + 3_600_000)
  receive('A2')
  await connection.gate.settled()
  const [first, second] = arrived
  assert.ok(Math.abs(first - 1_790_000_060_000) < 5_000, String(first))
  assert.ok(Math.abs(second - first) < 5_000, 'an hour of the clock is no hour')
})

test('a message says whether its group was known to be monitored when its decryption began, though it is known soon after', async () => {
  const { connection, sock } = connect()
  Object.assign(connection.creds, { me: { id: '111:5@s.whatsapp.net', lid: '999:5@lid' }, account: {} })
  connection.inbox.backlogComplete()
  const groups = new Set()
  connection.hooks.monitored = (chat) => groups.has(chat)
  /** @type {any[]} */
  const stanzas = []
  const { commit } = connection.gate.hooks
  connection.gate.hooks.commit = (batch) => (stanzas.push(...batch.stanzas), commit(batch))
  const receive = (/** @type {string} */ id, /** @type {object} */ attrs) => sock.ws.emit('CB:message', { tag: 'message', attrs: { id, t: '1790000000', ...attrs }, content: [{ tag: 'unavailable', attrs: { type: 'view_once' } }] })
  receive('A1', { from: '1@g.us', participant: '222@lid' })
  groups.add('1@g.us')
  receive('A2', { from: '1@g.us', participant: '222@lid' })
  receive('A3', { from: '999@lid', category: 'peer' })
  await connection.gate.settled()
  assert.deepEqual(stanzas.map(({ attrs, wanted }) => [attrs.id, wanted]), [['A1', false], ['A2', true], ['A3', true]])
})

test('who is who is told once, however often the lists of members come; another number of a person is told', () => {
  const { connection } = connect()
  const told = /** @type {string[]} */ ([])
  connection.gate.append = (entry) => { told.push(.../** @type {any[]} */ (entry.events).map(({ lid, pn }) => `${lid} ${pn}`)); return 0 }
  const member = (/** @type {string} */ id, /** @type {string} */ also) => ({ id, also, role: /** @type {const} */ ('member') })
  const ana = member('1@lid', '491@s.whatsapp.net')
  connection.learn([ana, member('492@s.whatsapp.net', '2@lid'), ana])
  connection.learn([ana, member('2@lid', '492@s.whatsapp.net'), member('3@lid', '493@s.whatsapp.net')])
  connection.learn([member('1@lid', '494@s.whatsapp.net')])
  assert.deepEqual(told, ['1@lid 491@s.whatsapp.net', '2@lid 492@s.whatsapp.net', '3@lid 493@s.whatsapp.net', '1@lid 494@s.whatsapp.net'])
})
