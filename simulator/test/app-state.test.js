/** The app state: collections that the stock Baileys reads and whose hashes it checks. */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { decodeSyncdSnapshot, proto } from 'baileys'
import { AppState } from '../lib/app-state.js'
import { MediaHost } from '../lib/media-host.js'
import { pairedClient } from './client.js'
import { startProgram } from './program.js'

const COUNT = 3000

/** @type {import('./program.js').Program} */
let phone
/** @type {import('./client.js').Client} */
let client

before(async () => {
  phone = await startProgram()
  for (const first of [0, 1]) await phone.post('/app_state', { contacts: first ? COUNT : 10 })
  client = await pairedClient(phone)
})
after(async () => {
  await client.end()
  await phone.stop()
})

test('three thousand contacts come with the first login, after the key that opens them', async () => {
  const names = () => [...client.contacts.values()].filter((name) => /^Stranger \d+ of the phone book$/.test(String(name)))
  await client.until(() => names().length === COUNT, `${COUNT} contacts`)
  assert.deepEqual((await phone.get('/app_state')).collections.filter((/** @type {any} */ one) => one.entries), [{ name: 'critical_unblock_low', version: 2, entries: COUNT, patches: 2 }])
  assert.deepEqual(client.unexpected, [])
})

test('a change is told with server_sync, and the client fetches what is new alone', async () => {
  const ana = await phone.post('/people', { name: 'Ana' })
  const value = { contactAction: { fullName: 'Ana from the harbour', firstName: 'Ana', lidJid: ana.lid } }
  await phone.post('/app_state', { entries: [{ index: ['contact', ana.pn], value }] })
  await client.until(() => client.contacts.get(ana.pn) === 'Ana from the harbour', 'her name')
  await phone.post('/wait', { for: 'queue_empty' })
  assert.deepEqual(client.unexpected, [])
  await assert.rejects(phone.post('/app_state', { collection: 'weather' }), { status: 400 })
})

test('a whole collection is a file whose hash is right', async () => {
  const [state, media] = [new AppState(), new MediaHost()]
  const entry = (/** @type {number} */ i) => ({ index: ['contact', `${i}@s.whatsapp.net`], value: { contactAction: { fullName: `Person ${i}` } } })
  state.write('regular', [entry(1), entry(2)])
  state.write('regular', [entry(2), entry(3)])
  state.collection('regular').snapshot = true
  const answer = state.answer(media, 'regular', 0, true)
  const [file] = /** @type {any[]} */ (answer.content)
  assert.equal(file.tag, 'snapshot')
  assert.equal(proto.ExternalBlobReference.decode(file.content).directPath?.split('?')[0], [...media.blobs.keys()][0])
  const snapshot = state.wholeOf('regular')
  /** @type {string[]} */
  const complaints = []
  const logger = /** @type {any} */ ({ warn: (/** @type {any} */ _about, /** @type {string} */ text) => complaints.push(text) })
  const read = await decodeSyncdSnapshot('regular', snapshot, async () => state.key.keyData, undefined, true, logger)
  assert.equal(read.state.version, 2)
  assert.equal(Object.keys(read.mutationMap).length, 3)
  assert.deepEqual(complaints, [])
})
