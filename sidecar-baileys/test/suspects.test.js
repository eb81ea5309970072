/** A stanza in whose decryption the sidecar ended: the mark that it leaves, and what becomes of it when it comes again. */
import assert from 'node:assert/strict'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { Database, pair, Sidecar, startPhone } from './support/worker.js'

const SILENCE = new Promise(() => {})

/** @type {any} */
let phone
let group = ''
const folder = mkdtempSync(join(tmpdir(), 'wa-suspects-'))
const path = join(folder, 'mark')
const fd = openSync(path, 'w+')
const database = new Database()
/** @type {Sidecar[]} */
const running = []

before(async () => {
  phone = await startPhone()
  group = (await phone.post('/groups', { subject: 'A group', participants: ['Ana', 'Ben'] })).id
  const first = start()
  await pair(first, phone)
  await committed(first, { from: 'Ana', to: group, text: 'her keys' })
  await first.stop()
})
after(() => {
  for (const sidecar of running) sidecar.child.kill('SIGKILL')
  phone.stop()
  closeSync(fd)
  rmSync(folder, { recursive: true })
})

function start() {
  const sidecar = new Sidecar(database, {}, fd)
  running.push(sidecar)
  return sidecar
}

/** @param {Sidecar} sidecar @param {string} id @param {(stanza: any) => boolean} [match] @returns {Promise<any>} */
const stanzaOf = (sidecar, id, match = () => true) =>
  sidecar.until(() => database.stanzas.find((s) => s.attrs.id === id && match(s)), `the stanza ${id}`)

/** @param {Sidecar} sidecar @param {object} body */
async function committed(sidecar, body) {
  const { id } = await phone.post('/send', body)
  return stanzaOf(sidecar, id)
}

/** What was answered to this message, in order. @param {string} id @param {number} count @returns {Promise<string[]>} */
async function answers(id, count) {
  for (;;) {
    const kinds = (await phone.all('/receipts')).filter((/** @type {any} */ r) => r.id === id).map((/** @type {any} */ r) => r.kind)
    if (kinds.length >= count) return kinds
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** Send a message that is never durable, and kill the sidecar over it. @returns {Promise<{id: string, hash: string}>} */
async function killedOver(/** @type {object} */ body) {
  const sidecar = start()
  const reached = new Promise((resolve) => {
    sidecar.beforeCommit = ({ stanzas }) => (stanzas.length > 0 ? (resolve(stanzas[0]), SILENCE) : undefined)
  })
  await sidecar.connect(phone)
  await sidecar.connection('open')
  const { id } = await phone.post('/send', body)
  const stanza = /** @type {any} */ (await reached)
  assert.equal(stanza.attrs.id, id)
  sidecar.child.kill('SIGKILL')
  await sidecar.exited
  const hash = readFileSync(path).toString('hex')
  assert.equal(hash, stanza.hashes[0], 'the mark outlives the sidecar and names the stanza')
  return { id, hash }
}

test('a suspect is decrypted alone, stored, and then no longer marked', async () => {
  const { id, hash } = await killedOver({ from: 'Ana', to: group, text: 'alone' })
  const sidecar = start()
  await sidecar.connect(phone, { suspects: { [hash]: 'alone' } })
  const stanza = await stanzaOf(sidecar, id)
  assert.equal(stanza.content.conversation ?? stanza.content.extendedTextMessage.text, 'alone')
  assert.deepEqual(await answers(id, 1), ['receipt'])
  assert.equal(readFileSync(path).toString('hex'), '00'.repeat(32))
  await sidecar.stop()
})

test('a suspect that is not to be decrypted: the whole stanza is committed, then the retry receipt leaves, then the ack', async () => {
  const { id, hash } = await killedOver({ from: 'Ana', to: group, text: 'unread' })
  const sidecar = start()
  await sidecar.connect(phone, { suspects: { [hash]: 'unread' } })
  const stanza = await stanzaOf(sidecar, id)
  assert.equal(stanza.content, null)
  assert.match(stanza.failure, /not decrypted/)
  assert.deepEqual(stanza.hashes, [])
  const whole = JSON.parse(stanza.undecrypted)
  assert.equal(whole.attrs.id, id)
  const enc = whole.content.find((/** @type {any} */ child) => child.tag === 'enc')
  assert.ok(Buffer.from(enc.content.data, 'base64').length > 50, 'with its ciphertext')
  const copy = await stanzaOf(sidecar, id, (s) => s.content)
  assert.equal(copy.undecrypted, null)
  assert.equal(database.texts(id)[0], 'unread')
  assert.deepEqual((await answers(id, 3)).sort(), ['ack', 'receipt', 'retry'])
  assert.equal((await answers(id, 3))[0], 'retry')
  await sidecar.stop()
})

test('a suspect of a direct chat leaves no content, and nobody is asked for it', async () => {
  const { id, hash } = await killedOver({ from: 'Ben', to: 'direct', text: 'private' })
  const sidecar = start()
  await sidecar.connect(phone, { suspects: { [hash]: 'unread' } })
  const stanza = await stanzaOf(sidecar, id)
  assert.equal(stanza.undecrypted, null)
  assert.deepEqual(await answers(id, 1), ['ack'])
  await sidecar.stop()
})

test('a copy that kills like the first is acked, and not asked for again', async () => {
  const { id, hash } = await killedOver({ from: 'Ana', to: group, text: 'twice' })
  const first = start()
  await first.connect(phone, { suspects: { [hash]: 'unread' } })
  const reached = new Promise((resolve) => {
    first.beforeCommit = ({ stanzas }) => {
      const copy = stanzas.find((/** @type {any} */ s) => s.content)
      return copy ? (resolve(copy), SILENCE) : undefined
    }
  })
  const copy = /** @type {any} */ (await reached)
  assert.equal(copy.retry_count, 1)
  first.child.kill('SIGKILL')
  await first.exited
  const before = await answers(id, 2)
  const again = readFileSync(path).toString('hex')
  assert.equal(again, copy.hashes[0])
  const second = start()
  await second.connect(phone, { suspects: { [hash]: 'unread', [again]: 'unread' } })
  await stanzaOf(second, id, (s) => s.retry_count === 1)
  assert.deepEqual((await answers(id, before.length + 1)).slice(before.length), ['ack'])
  await second.stop()
})

test('nothing is asked of WhatsApp for one that is not to be decrypted: the question may be what never ends', async () => {
  const crew = (await phone.post('/groups', { subject: 'By number', participants: ['Ana'], mode: 'pn' })).id
  const { id, hash } = await killedOver({ from: 'A stranger', to: crew, text: 'who?', omit_alt: true })
  await phone.post('/faults', { kind: 'iq_silence', xmlns: 'usync', times: -1 })
  await phone.post('/faults', { kind: 'senders_silent', times: -1 }) // the good copy's receipt would be a third answer
  const sidecar = start()
  await sidecar.connect(phone, { suspects: { [hash]: 'unread' } })
  const stanza = await stanzaOf(sidecar, id)
  assert.match(stanza.failure, /not decrypted/)
  assert.deepEqual(await answers(id, 2), ['retry', 'ack'])
  await phone.post('/faults', { kind: 'clear' })
  await sidecar.stop()
})
