import assert from 'node:assert/strict'
import { after, afterEach, before, test } from 'node:test'
import { pairedClient } from './client.js'
import { startProgram } from './program.js'

/** @type {import('./program.js').Program} */
let phone
/** @type {import('./client.js').Client} */
let client
let group = ''

before(async () => {
  phone = await startProgram()
  group = (await phone.post('/groups', { subject: 'Delivery', participants: ['Ana', 'Ben'] })).id
  client = await pairedClient(phone)
})
afterEach(() => { client.complaints = [] })
after(async () => {
  await client.end()
  await phone.stop()
})

async function back() {
  const { logins } = await phone.get('/state')
  client.reconnect()
  await phone.post('/wait', { for: 'logins', count: logins + 1 })
  await phone.post('/wait', { for: 'connected' })
}

test('what is sent while the client is away comes at the next login, in order, before live traffic, marked offline', async () => {
  await client.end()
  await phone.post('/wait', { for: 'disconnected' })
  client.upserts = []
  const { ids } = await phone.post('/burst', { from: ['Ana', 'Ben'], to: [group], count: 30, text_prefix: 'away' })
  assert.equal((await phone.get('/state')).offline_queue, 30)
  client.stanzas = []
  await back()
  // Not from Ana or Ben: stock Baileys lets live stanzas overtake (docs/whatsapp.md, "Holding frames").
  const live = await phone.post('/send', { from: 'me', to: group, text: 'live again' })
  await Promise.all([...ids, live.id].map((id) => client.message(id)))
  assert.deepEqual(client.stanzas.map(({ id }) => id), [...ids, live.id])
  assert.deepEqual(client.stanzas.map(({ offline }) => offline), [...ids.keys(), undefined].map((n) => n?.toString()))
  assert.deepEqual(client.upserts.filter(({ upsertType }) => upsertType === 'append').map(({ key }) => key.id), ids)
  await phone.post('/wait', { for: 'queue_empty' })
  assert.deepEqual(client.unexpected, [])
})

test('a group made or renamed while the client is away is told at the next login', async () => {
  await client.end()
  await phone.post('/groups/rename', { id: group, subject: 'Renamed' })
  await back()
  await client.until(() => client.groupUpdates.find(({ subject }) => subject === 'Renamed'), 'the new name')
  await phone.post('/wait', { for: 'queue_empty' })
  assert.equal((await client.sock?.groupMetadata(group))?.subject, 'Renamed')
  assert.deepEqual(client.unexpected, [])
})

test('a connection that drops in mid-burst redelivers exactly what was not receipted', async () => {
  const first = await phone.post('/receipts/wait', { ids: ['none'], timeout_ms: 1 })
  assert.equal(first.done, false)
  const { next } = await phone.get('/receipts')
  await phone.post('/faults', { kind: 'drop', after: 10 })
  const burst = phone.post('/burst', { from: ['Ana'], to: [group], count: 30, text_prefix: 'drop' })
  const close = await client.closed()
  assert.equal(close.code, 428)
  const { ids } = await burst
  const { items } = await phone.get(`/receipts?since=${next}`)
  const receipted = items.filter((/** @type {any} */ { kind }) => kind === 'receipt').map((/** @type {any} */ { id }) => id)
  const waiting = (await phone.get('/offline')).items.map((/** @type {any} */ { id }) => id)
  assert.deepEqual(waiting, ids.filter((/** @type {string} */ id) => !receipted.includes(id)))
  await back()
  const last = ids.at(-1)
  await client.message(last)
  // Stock Baileys loses what it decrypted and could not receipt (docs/whatsapp.md, "Delivery");
  // the server must only have sent everything again.
  const { done } = await phone.post('/receipts/wait', { ids, kinds: ['receipt', 'nack'] })
  assert.ok(done)
  await phone.post('/wait', { for: 'queue_empty' })
})

test('a receipt that the server never read does not count', async () => {
  await phone.post('/faults', { kind: 'drop_before_read' })
  const { id } = await phone.post('/send', { from: 'Ana', to: group, text: 'unread receipt' })
  await client.closed()
  const waiting = (await phone.get('/offline')).items
  assert.deepEqual(waiting.map((/** @type {any} */ one) => one.id), [id])
  await back()
  await phone.post('/wait', { for: 'queue_empty' })
})

test('a message that cannot be decrypted is asked for again and comes in good form under the same id', async () => {
  const { next: start } = await phone.get('/log')
  for (const [to, fault] of /** @type {const} */ ([[group, { corrupt: true }], [group, { tamper_signature: true }], [group, { no_skdm: true }], ['direct', { corrupt: true }], [group, { corrupt: true, retries: 2 }]])) {
    const { id } = await phone.post('/send', { from: 'Ben', to, text: `good at last ${JSON.stringify(fault)}`, fault })
    const message = await client.message(id)
    assert.match(message.message.conversation, /good at last/)
    const { items } = await phone.post('/receipts/wait', { ids: [id] })
    assert.equal(items[0].id, id)
    const { items: all } = await phone.get('/receipts')
    const kinds = all.filter((/** @type {any} */ one) => one.id === id).map((/** @type {any} */ { kind, error }) => [kind, error])
    const bad = 'retries' in fault ? 2 : 1
    assert.deepEqual(kinds, [...Array(bad).fill([['retry', null], ['nack', '500']]).flat(), ['receipt', null]])
    const next = await phone.post('/send', { from: 'Ben', to, text: 'and on' })
    assert.equal((await client.message(next.id)).message.conversation, 'and on')
    await phone.post('/wait', { for: 'queue_empty' })
  }
  const { items } = await phone.get(`/log?since=${start}`)
  assert.equal(items.filter((/** @type {any} */ { kind }) => kind === 'retry_answered').length, 6)
})

test('a message that nobody answers for stays undecryptable and leaves the queue with its nack', async () => {
  const { id } = await phone.post('/send', { from: 'Ben', to: group, text: 'never', fault: { corrupt: true, never: true } })
  await client.until(() => client.upserts.find(({ key }) => key.id === id && key && client.upserts), 'the stub')
  await phone.post('/receipts/wait', { ids: [id], kinds: ['nack'] })
  await phone.post('/wait', { for: 'queue_empty' })
  assert.equal(client.upserts.filter(({ key, message }) => key.id === id && message).length, 0)
})

test('while the senders are silent no retry is answered', async () => {
  await phone.post('/faults', { kind: 'senders_silent' })
  const { id } = await phone.post('/send', { from: 'Ben', to: group, text: 'silence', fault: { corrupt: true } })
  await phone.post('/receipts/wait', { ids: [id], kinds: ['nack'] })
  await phone.post('/wait', { for: 'queue_empty' })
  await phone.post('/faults', { kind: 'clear' })
  const { id: later } = await phone.post('/send', { from: 'Ben', to: group, text: 'later' })
  await client.message(later)
  assert.ok(!client.upserts.some(({ key, message }) => key.id === id && message))
})

test('a duplicate stanza is two stanzas; both are answered', async () => {
  const { id } = await phone.post('/send', { from: 'Ana', to: group, text: 'twice', fault: { duplicate: true } })
  assert.equal((await client.message(id)).message.conversation, 'twice')
  await phone.post('/receipts/wait', { ids: [id], kinds: ['nack'] }) // the second copy's key is spent: stock Baileys refuses it
  await phone.post('/wait', { for: 'queue_empty' })
})

test('an out-of-order message is written after the next one of its sender', async () => {
  client.upserts = []
  const late = await phone.post('/send', { from: 'Ana', to: group, text: 'late', fault: { out_of_order: true } })
  const next = await phone.post('/send', { from: 'Ana', to: group, text: 'next' })
  await client.message(next.id)
  await client.message(late.id)
  assert.equal(client.upserts[0].key.id, next.id)
  await phone.post('/wait', { for: 'queue_empty' })
})

test('two senders may use the same message id', async () => {
  for (const from of ['Ana', 'Ben']) await phone.post('/send', { from, to: group, text: from, id: 'SAME' })
  await client.until(() => client.upserts.filter(({ key }) => key.id === 'SAME').length === 2, 'both')
  const { people } = await phone.get('/people')
  const { done } = await phone.post('/receipts/wait', { ids: people.slice(0, 2).map((/** @type {any} */ { lid }) => ({ id: 'SAME', participant: lid })) })
  assert.ok(done)
  assert.deepEqual(client.unexpected, [])
})

test('a held message comes when it is released; history is never a live message', async () => {
  const { id } = await phone.post('/send', { from: 'Ana', to: group, text: 'held', fault: { hold: true } })
  await phone.post('/history_sync', { sync_type: 'RECENT', messages: [{ from: 'Ana', to: group, text: 'old', t: 1, id: 'OLD' }] })
  await phone.post('/history_sync', { sync_type: 'RECENT', inline: true })
  const { id: live } = await phone.post('/send', { from: 'Ana', to: group, text: 'live' })
  await client.message(live)
  assert.ok(!client.upserts.some(({ key }) => key.id === id || key.id === 'OLD'))
  await phone.post('/release', { ids: [id] })
  await client.message(id)
})
