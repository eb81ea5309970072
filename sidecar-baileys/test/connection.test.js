import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import { after, before, test } from 'node:test'
import { makeLogger } from '../lib/logger.js'
import { Connection } from '../lib/socket.js'

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
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address())
  const params = /** @type {any} */ ({ epoch: 1, browser: ['a', 'b', 'c'], version: null, socket_url: `ws://127.0.0.1:${port}`, root_key: null, offline_hold_ms: 1_000, strict_certs: true, max_log_bytes: 16_000_000, qr_timeout_ms: null, keep_alive_ms: null })
  const connection = new Connection(params, null, {
    commit: async ({ keys = {}, creds }) => {
      for (const [type, values] of Object.entries(keys)) for (const id of Object.keys(values)) story.push(`${type}/${id}`)
      if (creds) story.push('creds')
    },
    getKeys: async () => ({}),
    known: async () => [],
    notify: () => {},
    logger: makeLogger('silent'),
  })
  connection.gate.hooks.write = (frame) => { story.push(Buffer.from(frame).toString()) }
  made.push(connection)
  return { connection, story, sock: /** @type {any} */ (connection.sock) }
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
