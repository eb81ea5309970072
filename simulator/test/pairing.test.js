import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Client, makeAuth, pairedClient } from './client.js'
import { startProgram } from './program.js'

/** @type {import('./program.js').Program} */
let phone
before(async () => { phone = await startProgram() })
after(() => phone.stop())

test('a stock client pairs by QR, logs in, sees its groups and reads a text, without a complaint', async () => {
  await phone.post('/people', { name: 'Ana' })
  const { id: group } = await phone.post('/groups', { subject: 'Family', participants: ['Ana', 'Ben'] })
  const client = await pairedClient(phone)
  const { me, prekeys } = await phone.get('/state')
  assert.equal(client.auth.creds.me?.id, me.id)
  assert.equal(client.auth.creds.me?.lid, me.lid)
  assert.ok(prekeys >= 800, `${prekeys} pre-keys`)
  const groups = await client.sock?.groupFetchAllParticipating()
  assert.equal(groups?.[group]?.subject, 'Family')
  assert.equal(groups?.[group]?.participants.length, 3)
  const sent = await phone.post('/send', { from: 'Ana', to: group, text: 'hello' })
  const message = await client.message(sent.id)
  assert.equal(message.message.conversation, 'hello')
  assert.equal(message.key.participant, sent.participant)
  assert.equal(message.key.participantAlt, sent.participant_pn)
  const { done } = await phone.post('/receipts/wait', { ids: [sent.id] })
  assert.ok(done)
  assert.equal((await phone.get('/state')).offline_queue, 0)
  assert.deepEqual(client.unexpected, [])
  await client.end()
})

test('a QR that the server has retired links nobody; the stock client does not notice', async () => {
  const client = new Client(phone.endpoints)
  const qr = await client.until(() => client.qr, 'a QR')
  await phone.post('/faults', { kind: 'retire_qr', qr })
  await assert.rejects(phone.post('/scan', { qr }), /retired/)
  assert.equal(client.qr, qr)
  await client.end()
})
