import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { pairedClient } from './client.js'
import { startProgram } from './program.js'

/** @type {import('./program.js').Program} */
let phone
/** @type {import('./client.js').Client} */
let client
let group = ''

before(async () => {
  phone = await startProgram()
  group = (await phone.post('/groups', { subject: 'Other', participants: ['Ana', 'Ben'], addressing_mode: 'pn', community: '120363000000000009@g.us' })).id
  client = await pairedClient(phone)
})
after(async () => {
  await client.end()
  await phone.stop()
})

test('a group has admins and may belong to a community', async () => {
  await phone.post('/groups/admins', { id: group, promote: ['Ben', 'me'] })
  const { admins } = await phone.post('/groups/admins', { id: group, demote: ['me'] })
  assert.deepEqual(admins, ['Ben'])
  const metadata = await client.sock?.groupMetadata(group)
  assert.deepEqual(metadata?.participants.map(({ admin }) => admin ?? 'none').sort(), ['admin', 'none', 'superadmin'])
  assert.equal(metadata?.linkedParent, '120363000000000009@g.us')
  await phone.post('/wait', { for: 'queue_empty' })
})

test('revokes carry 7 by the sender, 8 by anybody else', async () => {
  const { id } = await phone.post('/send', { from: 'Ana', to: group, text: 'oops' })
  for (const [from, edit] of /** @type {const} */ ([['Ana', '7'], ['Ben', '8']])) {
    const revoke = await phone.post('/revoke', { from, to: group, id })
    const { message } = await client.message(revoke.id)
    assert.equal(message.protocolMessage.key.id, id)
    assert.equal(client.stanzas.find((stanza) => stanza.id === revoke.id)?.edit, edit)
  }
})

test('a call is acked; a bot without its secret is answered too', async () => {
  const { call_id } = await phone.post('/call', { video: true })
  await phone.post('/call', { what: 'terminate', call_id })
  await phone.post('/bot', {})
  await phone.post('/bot', { to: group })
  await phone.post('/wait', { for: 'queue_empty' })
  const { items } = await phone.get('/receipts')
  assert.equal(items.filter((/** @type {any} */ one) => one.class === 'call').length, 2)
})

test('media may come without a direct path; several hosts are told', async () => {
  const { id } = await phone.post('/send', { from: 'Ana', to: group, media: { kind: 'image', data: 'AAAA', no_direct_path: true, host: 'media-fra3-1.cdn.whatsapp.net' } })
  const { imageMessage } = (await client.message(id)).message
  assert.ok(!imageMessage.directPath)
  assert.match(imageMessage.url, /^https:\/\/media-fra3-1\.cdn/)
  await phone.post('/media/hosts', { hosts: ['a.cdn.whatsapp.net', 'b.cdn.whatsapp.net'] })
  const conn = await client.sock?.refreshMediaConn(true)
  assert.deepEqual(conn?.hosts.map(({ hostname }) => hostname), ['a.cdn.whatsapp.net', 'b.cdn.whatsapp.net'])
})

test('a group that changes to LIDs: new messages name them, a retry of an old one still finds it', async () => {
  const old = await phone.post('/send', { from: 'Ana', to: group, text: 'by number', fault: { corrupt: true, hold: true } })
  await phone.post('/groups/addressing', { id: group, addressing_mode: 'lid' })
  const fresh = await phone.post('/send', { from: 'Ana', to: group, text: 'by LID' })
  assert.match(fresh.participant, /@lid$/)
  await client.message(fresh.id)
  await phone.post('/release', { ids: [old.id] })
  assert.equal((await client.message(old.id)).message.conversation, 'by number')
  const { people } = await phone.get('/people')
  const ana = people.find((/** @type {any} */ { name }) => name === 'Ana')
  const { next } = await phone.get('/log')
  client.sock?.sendNode({ tag: 'receipt', attrs: { type: 'retry', id: old.id, to: group, participant: ana.lid }, content: [{ tag: 'retry', attrs: { count: '1', id: old.id, t: '1', v: '1' } }] })
  const answered = async () => (await phone.get(`/log?since=${next}`)).items.find((/** @type {any} */ one) => one.kind === 'retry_answered' && one.id === old.id)
  while (!(await answered())) await phone.post('/receipts/wait', { ids: ['none'], timeout_ms: 20 }) // the answer needs an encryption
  await phone.post('/wait', { for: 'queue_empty' })
})

test('a history of three thousand people and twenty thousand messages is one file', async () => {
  await phone.post('/history_sync', { sync_type: 'RECENT', inline: false, generate: { people: 3000, messages: 20_000, to: group } })
  assert.equal((await phone.get('/state')).people >= 3000, true)
  const { id } = await phone.post('/send', { from: 'Ana', to: group, text: 'after it' })
  await client.message(id)
})
