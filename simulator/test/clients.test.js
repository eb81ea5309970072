/** The runner of the independent clients; and things that clients do but Baileys 7 does not. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import test from 'node:test'
import { promisify } from 'node:util'
import { proto } from 'baileys'
import { ServerHandshake } from '../lib/noise.js'
import { makeSigningKey } from '../lib/curve.js'
import { askedForBacklog, announceBacklog, continueBacklog } from '../lib/backlog.js'
import { Companion } from '../lib/companion.js'
import { Phone } from '../lib/phone.js'
import { node } from '../lib/stanza.js'
import { pairedClient } from './client.js'
import { startProgram } from './program.js'

const RUNNER = new URL('../clients/run.js', import.meta.url).pathname

test('the runner links stock Baileys, and it reads texts, media and its backlog', async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [RUNNER, '--here', '--realism', 'kind', 'baileys-7-rc14'])
  assert.equal(stdout.trim().split('\n').at(-1), '| baileys-7-rc14 7.0.0-rc14 | yes | yes | 10 of 10 | yes | yes | 250 of 250 | yes |')
})

test('a client that resumes the handshake is told to fall back: the answer is that of XXfallback', () => {
  const [ephemeral, own] = [makeSigningKey(), makeSigningKey()]
  const clientHello = { ephemeral: ephemeral.public, static: own.public, payload: Buffer.alloc(40) }
  const handshake = new ServerHandshake(makeSigningKey(), Buffer.from([87, 65, 6, 3]))
  const { serverHello } = proto.HandshakeMessage.decode(handshake.hello(proto.HandshakeMessage.encode({ clientHello }).finish(), Buffer.from('chain')))
  assert.equal(handshake.resumes, true)
  assert.equal(serverHello?.static?.length, 48, 'with its static key, sealed: IK has none')
})

/** A phone with so many waiting, and a connection that only notes what is written. @param {number} count */
function waiting(count) {
  const phone = new Phone()
  phone.realism.set({ profile: 'default', window: 10 })
  phone.historyAuto = false
  phone.link(new Companion(1, Buffer.alloc(32), {}))
  for (let i = 0; i < count; i++) phone.queue.add(node('message', { id: `m${i}`, from: '1@g.us' }))
  /** @type {string[]} */
  const written = []
  const connection = /** @type {any} */ ({
    phone, line: phone.line(), state: 'login', number: 1, allowed: 0, asked: false, delivering: false, endWithheld: false, offlineSent: 0, backpressure: 0,
    become(/** @type {string} */ state) { this.state = state },
    send(/** @type {any} */ stanza) { written.push(stanza.attrs.id ?? stanza.content[0].tag) }
  })
  return { phone, connection, written }
}

const settled = () => new Promise((resolve) => setImmediate(resolve))

test('a client that never asks gets the next window when it has answered the last', async () => {
  const { phone, connection, written } = waiting(25)
  announceBacklog(connection)
  await settled()
  assert.equal(written.length, 11, 'the preview and ten')
  for (let i = 0; i < 25; i++) {
    phone.queue.settle(node('receipt', { id: `m${i}`, to: '1@g.us' }))
    continueBacklog(connection)
    await settled()
  }
  assert.equal(written.at(-1), 'offline')
  assert.equal(connection.state, 'live')
})

test('a client that has asked gets no more than it asks for, and at most two windows at once', async () => {
  const { phone, connection, written } = waiting(45)
  announceBacklog(connection)
  askedForBacklog(connection, 200)
  await settled()
  assert.equal(written.length, 1 + 10 + 20)
  for (let i = 0; i < 30; i++) phone.queue.settle(node('receipt', { id: `m${i}`, to: '1@g.us' }))
  continueBacklog(connection)
  await settled()
  assert.equal(written.length, 31)
  askedForBacklog(connection, 200)
  await settled()
  assert.equal(connection.state, 'live')
})

test('the key of the app state is shared before the first history', async () => {
  const phone = await startProgram()
  const client = await pairedClient(phone)
  await client.until(() => client.auth.creds.myAppStateKeyId, 'the key')
  assert.equal(client.complaints.length, 0)
  await client.end()
  await phone.stop()
})
