/** What a stranger's modified client may cost us: real sidecar, real Baileys, the virtual phone as the attacker. */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Database, pair, Sidecar, startPhone } from './support/worker.js'

/** libsignal keeps so many sessions of one device. */
const SESSIONS = 41
const FORGED = 20
/** Longest gap that libsignal bridges. */
const GAP = 2_000
/** A record with 2,000 skipped keys and 41 sessions. */
const RECORD_LONGEST = 300_000

/** @type {any} */
let phone
/** @type {Sidecar} */
let sidecar
const database = new Database()
let group = ''

before(async () => {
  phone = await startPhone()
  sidecar = new Sidecar(database, { LOG_LEVEL: 'info' })
  await pair(sidecar, phone)
  group = (await phone.post('/groups', { subject: 'A group', participants: ['Ana', 'Mallory'] })).id
})
after(async () => {
  sidecar.child.kill('SIGKILL')
  phone.stop()
})

/** Send, and wait until the sidecar has committed it. @param {object} body @returns {Promise<any>} its stanza */
async function stanzaOf(body) {
  const { id } = await phone.post('/send', body)
  return sidecar.until(() => database.stanzas.find((/** @type {any} */ s) => s.attrs.id === id), `the stanza ${id}`)
}

/** @param {any} stanza */
const textOf = ({ content }) => content?.conversation ?? null

/** Of a direct message the content stays in the sidecar. @param {any} stanza */
const opened = ({ failure, hashes }) => failure === null && hashes.length > 0

/** @param {string} type @returns {number} characters of the longest record */
const longest = (type) =>
  Math.max(...[...database.keys].map(([key, value]) => (key.startsWith(`${type}/`) ? value.length : 0)))

test('forty-one sessions of one device and forged messages: each is given up, and others go on', async () => {
  for (let i = 0; i < SESSIONS; i++) {
    const sent = { from: 'Mallory', to: 'direct', text: `session ${i}`, fault: { new_session: true } }
    assert.ok(opened(await stanzaOf(sent)), `session ${i}`)
  }
  for (let i = 0; i < FORGED; i++) {
    const fault = { forged: { counter: 1999, previous_counter: 1999 }, never: true }
    const stanza = await stanzaOf({ from: 'Mallory', to: 'direct', text: '', fault })
    assert.match(stanza.failure, /too many message keys/)
  }
  assert.equal(textOf(await stanzaOf({ from: 'Ana', to: group, text: 'still here' })), 'still here')
  const next = await stanzaOf({ from: 'Mallory', to: 'direct', text: 'a good one' })
  assert.ok(opened(next), 'forged messages spoil no session')
})

test('a gap of two thousand messages opens, in a direct chat and in a group', async () => {
  await stanzaOf({ from: 'Ana', to: 'direct', text: 'the first' })
  const far = await stanzaOf({ from: 'Ana', to: 'direct', text: 'far on', fault: { skip: GAP - 1 } })
  assert.ok(opened(far))
  const farInGroup = await stanzaOf({ from: 'Ana', to: group, text: 'far on in a group', fault: { skip: GAP } })
  assert.equal(textOf(farInGroup), 'far on in a group')
})

test('a late message whose skipped key had to go is asked for again: its key was never used', async () => {
  const { id } = await phone.post('/send', { from: 'Ana', to: group, text: 'late', fault: { hold: true } })
  for (const text of ['far on', 'farther']) await stanzaOf({ from: 'Ana', to: group, text, fault: { skip: GAP - 1 } })
  await phone.post('/release', { ids: [id] })
  const good = () => database.stanzas.find((/** @type {any} */ s) => s.attrs.id === id && textOf(s) === 'late')
  await sidecar.until(good, 'a copy that opens')
})

test('sessions that each skip two thousand keys leave a record of bounded size', async () => {
  for (let i = 0; i < 10; i++) {
    const fault = { new_session: i % 3 === 0, skip: GAP - 1 }
    assert.ok(opened(await stanzaOf({ from: 'Mallory', to: 'direct', text: `${i}`, fault })), `${i}`)
    assert.equal(textOf(await stanzaOf({ from: 'Mallory', to: group, text: `${i}`, fault: { skip: GAP - 1 } })), `${i}`)
  }
  assert.ok(longest('session') < RECORD_LONGEST, `${longest('session')} characters`)
  assert.ok(longest('sender-key') < RECORD_LONGEST, `${longest('sender-key')} characters`)
})

test('a flood of garbage in direct chats: nobody is asked for it, and it is acknowledged', async () => {
  const before = (await phone.all('/receipts')).length
  const bodies = Array.from({ length: 60 }, (_, n) =>
    ({ from: `Stranger ${n % 20}`, to: 'direct', text: '', fault: n % 2 ? { garbage: 80 } : { unavailable: true } }))
  const { items } = await phone.post('/send_many', { items: bodies })
  const ids = new Set(items.map((/** @type {any} */ { id }) => id))
  const { id } = await phone.post('/send', { from: 'Ana', to: group, text: 'in the midst of it' })
  await sidecar.until(() => database.texts(id).length > 0, 'the message of a member')
  await phone.post('/wait', { for: 'queue_empty', timeout_ms: 30_000 })
  const answers = (await phone.all('/receipts')).slice(before).filter((/** @type {any} */ r) => ids.has(r.id))
  assert.deepEqual(new Set(answers.map((/** @type {any} */ { kind }) => kind)).has('retry'), false)
  const log = await phone.all('/log')
  assert.deepEqual(log.filter((/** @type {any} */ { kind }) => kind === 'peer_request'), [])
})

test('garbage in a group is asked for, within a budget', async () => {
  const { id } = await phone.post('/send', { from: 'Ana', to: group, text: '', fault: { garbage: 80, never: true } })
  const asked = await phone.post('/receipts/wait', { ids: [id], kinds: ['retry'], timeout_ms: 30_000 })
  assert.equal(asked.done, true)
})
