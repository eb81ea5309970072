import assert from 'node:assert/strict'
import { createHash, createHmac } from 'node:crypto'
import { after, before, test } from 'node:test'
import tls from 'node:tls'
import { downloadContentFromMessage, getMediaKeys } from 'baileys'
import { pairedClient } from './client.js'
import { startProgram } from './program.js'

/** @type {import('./program.js').Program} */
let phone
/** @type {import('./client.js').Client} */
let client
const groups = { lid: '', pn: '' }

before(async () => {
  phone = await startProgram()
  tls.setDefaultCACertificates([phone.endpoints.media_ca]) // Baileys' downloader has no option for it
  for (const mode of /** @type {const} */ (['lid', 'pn'])) groups[mode] = (await phone.post('/groups', { subject: mode, participants: ['Ana', 'Ben'], addressing_mode: mode })).id
  client = await pairedClient(phone)
})
after(async () => {
  await client.end()
  await phone.stop()
})

/** @param {string[]} ids */
async function receipted(ids) {
  const { done, missing, items } = await phone.post('/receipts/wait', { ids })
  assert.ok(done, `no receipt for ${JSON.stringify(missing)}`)
  return items
}

for (const mode of /** @type {const} */ (['lid', 'pn'])) {
  test(`texts of a ${mode} group arrive in order, with both addresses`, async () => {
    const { ids } = await phone.post('/burst', { from: ['Ana', 'Ben'], to: [groups[mode]], count: 20, text_prefix: mode })
    await receipted(ids)
    const mine = client.upserts.filter(({ key }) => ids.includes(key.id))
    assert.deepEqual(mine.map(({ message }) => message.conversation), ids.map((/** @type {string} */ _id, /** @type {number} */ i) => `${mode}-${i}`))
    const { people } = await phone.get('/people')
    assert.equal(mine[0].key.participant, mode === 'lid' ? people[0].lid : people[0].pn)
    assert.equal(mine[0].key.participantAlt, mode === 'lid' ? people[0].pn : people[0].lid)
    assert.deepEqual(client.unexpected, [])
  })
}

test('a message without the other address still arrives', async () => {
  const { id } = await phone.post('/send', { from: 'Cleo', to: groups.pn, text: 'who am I', omit_alt: true })
  const message = await client.message(id)
  assert.equal(message.key.participantAlt, undefined)
  assert.deepEqual(client.unexpected, [])
})

test('direct messages and the messages of the owner himself arrive with the right keys', async () => {
  const direct = await phone.post('/send', { from: 'Ana', to: 'direct', text: 'between us' })
  const own = await phone.post('/send', { from: 'me', to: groups.lid, text: 'from my phone' })
  const ownDirect = await phone.post('/send', { from: 'me', to: 'Ana', text: 'my answer' })
  const ana = (await phone.get('/people')).people[0]
  const [a, b, c] = await Promise.all([direct, own, ownDirect].map(({ id }) => client.message(id)))
  assert.deepEqual([a.key.remoteJid, a.key.fromMe, a.message.conversation], [ana.lid, false, 'between us'])
  assert.deepEqual([b.key.remoteJid, b.key.fromMe, b.message.conversation], [groups.lid, true, 'from my phone'])
  assert.deepEqual([c.key.remoteJid, c.key.fromMe, c.message.conversation], [ana.lid, true, 'my answer'])
  const receipts = await receipted([direct.id, own.id, ownDirect.id])
  assert.deepEqual(new Set(receipts.map((/** @type {any} */ { type }) => type)), new Set(['inactive', 'sender']))
  assert.equal((await phone.get('/state')).offline_queue, 0)
  assert.deepEqual(client.unexpected, [])
})

test('any protocol message passes as it is: a reaction, an edit, a revoke, a poll', async () => {
  const { id } = await phone.post('/send', { from: 'Ana', to: groups.lid, text: 'first' })
  const key = { remoteJid: groups.lid, id, fromMe: false }
  const items = [
    { reactionMessage: { key, text: '👍' } }, { protocolMessage: { type: 'MESSAGE_EDIT', key, editedMessage: { conversation: 'second' } } },
    { protocolMessage: { type: 'REVOKE', key } }, { pollCreationMessageV3: { name: 'when?', options: [{ optionName: 'now' }], selectableOptionsCount: 1 } }
  ].map((message) => ({ from: 'Ana', to: groups.lid, message }))
  const { items: answers } = await phone.post('/send_many', { items })
  const got = await Promise.all(answers.map((/** @type {any} */ answer) => client.message(answer.id)))
  assert.equal(got[0].message.reactionMessage.text, '👍')
  assert.equal(got[1].message.protocolMessage.editedMessage.conversation, 'second')
  assert.equal(got[2].message.protocolMessage.key.id, id)
  assert.equal(got[3].message.pollCreationMessageV3.name, 'when?')
  assert.deepEqual(client.unexpected, [])
})

const KINDS = { image: 'imageMessage', video: 'videoMessage', gif: 'videoMessage', ptv: 'ptvMessage', audio: 'audioMessage', voice: 'audioMessage', document: 'documentMessage', sticker: 'stickerMessage' }
const TYPES = { image: 'image', video: 'video', gif: 'video', ptv: 'ptv', audio: 'audio', voice: 'ptt', document: 'document', sticker: 'sticker' }

/** @param {any} content @param {any} type */
async function download(content, type) {
  const stream = await downloadContentFromMessage(content, type, { host: new URL(phone.endpoints.media_origin).host })
  const chunks = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks)
}

/**
 * What the stock downloader does not check: both hashes, the length and the MAC (docs/whatsapp.md, "Media").
 * @param {any} content @param {string} type @param {Buffer} data
 */
async function verifyStrictly(content, type, data) {
  const hash = (/** @type {Buffer} */ bytes) => createHash('sha256').update(bytes).digest()
  const blob = Buffer.from(await (await fetch(phone.endpoints.media_origin + content.directPath)).arrayBuffer())
  const { iv, macKey } = await getMediaKeys(content.mediaKey, /** @type {any} */ (type))
  assert.deepEqual(hash(blob), Buffer.from(content.fileEncSha256))
  assert.deepEqual(hash(data), Buffer.from(content.fileSha256))
  assert.deepEqual(createHmac('sha256', macKey ?? '').update(iv).update(blob.subarray(0, -10)).digest().subarray(0, 10), blob.subarray(-10))
}

for (const [kind, field] of Object.entries(KINDS)) {
  test(`${kind}: Baileys' own downloader gets the sender's bytes back`, async () => {
    const data = Buffer.from(`${kind} `.repeat(5000))
    const sent = await phone.post('/send', { from: 'Ben', to: groups.lid, media: { kind, data: data.toString('base64'), caption: 'look', width: 64, height: 48, seconds: 3, file_name: 'a.pdf' } })
    const { message } = await client.message(sent.id)
    assert.ok(message[field], Object.keys(message).join())
    assert.equal(Number(message[field].fileLength), data.length)
    assert.equal(Buffer.from(message[field].fileSha256).toString('hex'), sent.media.sha256)
    assert.deepEqual(await download(message[field], TYPES[/** @type {keyof typeof TYPES} */ (kind)]), data)
    await verifyStrictly(message[field], TYPES[/** @type {keyof typeof TYPES} */ (kind)], data)
    assert.deepEqual(client.unexpected, [])
  })
}

test('a forward carries the same blob; expired media is uploaded again on request', async () => {
  const data = Buffer.from('picture'.repeat(1000))
  const first = await phone.post('/send', { from: 'Ana', to: groups.lid, media: { kind: 'image', data: data.toString('base64') } })
  const again = await phone.post('/send', { from: 'Ben', to: groups.pn, forward_of: first.id, caption: 'mine' })
  assert.equal(again.media.path, first.media.path)
  const { message, key } = await client.message(first.id)
  await phone.post('/media/faults', { id: first.id, mode: '410', times: -1 })
  await assert.rejects(download(message.imageMessage, 'image'), /410|Gone|fetch/)
  const updated = await client.sock?.updateMediaMessage({ key, message })
  assert.notEqual(updated?.message?.imageMessage?.directPath?.split('?')[0], first.media.path)
  assert.deepEqual(await download(updated?.message?.imageMessage, 'image'), data)
  const { count } = await phone.get('/media/requests')
  assert.equal(count[first.media.path], 1)
  assert.deepEqual(client.unexpected, [])
})
