import assert from 'node:assert/strict'
import { after, afterEach, before, test } from 'node:test'
import { Client, makeAuth, pairedClient } from './client.js'
import { startProgram } from './program.js'

/** @type {import('./program.js').Program} */
let phone
/** @type {import('./client.js').Client} */
let client
let group = ''

before(async () => {
  phone = await startProgram()
  group = (await phone.post('/groups', { subject: 'Real', participants: ['Ana', 'Ben'] })).id
  client = await pairedClient(phone)
  await phone.post('/wait', { for: 'queue_empty' })
})
afterEach(async () => {
  await phone.post('/faults', { kind: 'clear' })
  await phone.post('/realism', { profile: 'default' })
})
after(async () => {
  await client.end()
  await phone.stop()
})

async function away(count = 0) {
  await client.end()
  await phone.post('/wait', { for: 'disconnected' })
  client.stanzas = []
  return count ? (await phone.post('/burst', { from: ['Ana', 'Ben'], to: [group], count, text_prefix: 'away' })).ids : []
}

async function back() {
  const { logins } = await phone.get('/state')
  client.reconnect()
  await phone.post('/wait', { for: 'logins', count: logins + 1 })
}

const askForMore = () => client.sock?.sendNode({ tag: 'ib', attrs: {}, content: [{ tag: 'offline_batch', attrs: { count: '100' } }] })
/** @param {string} kind @param {number} [since] */
const logged = async (kind, since = 0) => (await phone.get(`/log?since=${since}`)).items.filter((/** @type {any} */ one) => one.kind === kind)
const now = async () => (await phone.get('/log')).next

test('a status that gets no ack ends the stream, and comes again at the next login', async () => {
  await phone.post('/realism', { debts: true, debt_s: 0.3 })
  const { id } = await phone.post('/send', { from: 'Ana', to: 'status', text: 'good morning' })
  const close = await client.closed()
  assert.match(close.message, /ack/)
  assert.deepEqual((await logged('debt')).map((/** @type {any} */ { tag, id: owed }) => [tag, owed]), [['status', id]])
  const waiting = async () => (await phone.get('/offline')).items.map((/** @type {any} */ one) => one.id)
  assert.deepEqual(await waiting(), [id])
  await phone.post('/realism', { debts: false })
  await back()
  await phone.post('/wait', { for: 'connected' })
  client.sock?.sendNode({ tag: 'ack', attrs: { class: 'status', id, to: 'status@broadcast' } }) // without the participant
  client.sock?.sendNode({ tag: 'ack', attrs: { class: 'message', id, to: 'status@broadcast', participant: 'x' } })
  const [ana] = (await phone.get('/people')).people
  await phone.post('/receipts/wait', { ids: [id], kinds: ['ack'] })
  assert.deepEqual(await waiting(), [id])
  client.sock?.sendNode({ tag: 'ack', attrs: { class: 'status', id, to: 'status@broadcast', participant: ana.lid, type: 'text' } })
  await phone.post('/wait', { for: 'queue_empty' })
  assert.deepEqual((await logged('bad_ack')).map((/** @type {any} */ { wrong }) => wrong), ['participant', 'class'])
})

test('with every debt paid no stream ends: messages, and a notification of every type', async () => {
  const since = await now()
  await phone.post('/realism', { debts: true, debt_s: 1 })
  const sent = await phone.post('/send', { from: 'Ana', to: group, text: 'receipted' })
  const { items } = await phone.post('/notification', { type: 'all' })
  assert.equal(items.length, 15)
  await phone.post('/newsletter', { text: 'extra' })
  await client.message(sent.id)
  await phone.post('/wait', { for: 'queue_empty' })
  const acked = (await phone.get('/receipts')).items.filter((/** @type {any} */ one) => one.class === 'notification')
  for (const { id, type } of items) assert.ok(acked.some((/** @type {any} */ one) => one.id === id && one.type === type), type)
  assert.deepEqual(await logged('debt', since), [])
})

test('a backlog of 250 comes in windows: the first unasked, each further one when asked; live traffic after its end', async () => {
  const ids = await away(250)
  await phone.post('/realism', { windows: true })
  await back() // stock Baileys asks once, when it reads the preview
  await client.until(() => client.stanzas.length >= 200, 'two windows')
  assert.equal((await phone.get('/offline')).items.filter((/** @type {any} */ { sent }) => !sent).length, 50)
  const live = await phone.post('/send', { from: 'Ana', to: group, text: 'live' })
  assert.equal(live.queued, true)
  assert.equal((await phone.get('/state')).connected, false)
  askForMore()
  await phone.post('/wait', { for: 'connected' })
  await client.until(() => client.stanzas.length >= 251, 'all of them')
  assert.deepEqual(client.stanzas.slice(0, 251).map(({ id }) => id), [...ids, live.id])
  await phone.post('/wait', { for: 'queue_empty' })
})

test('the first window too can wait until it is asked for', async () => {
  await away(30)
  await phone.post('/realism', { windows: true, window: 10, first_window_unasked: false })
  await back()
  await client.until(() => client.stanzas.length >= 20, 'what it asked for: at most twice a window')
  assert.equal((await phone.get('/offline')).items.filter((/** @type {any} */ { sent }) => !sent).length, 10)
  askForMore()
  await phone.post('/wait', { for: 'connected' })
  await phone.post('/wait', { for: 'queue_empty' })
  assert.equal(client.stanzas.length, 30)
})

test('the end of the backlog may not be told, with live traffic or without', async () => {
  for (const live of [true, false]) {
    await away(3)
    await phone.post('/faults', { kind: 'no_offline_end', live })
    await back()
    await client.until(() => client.stanzas.length === 3, 'the backlog')
    const { queued } = await phone.post('/send', { from: 'Ana', to: group, text: 'after it' })
    assert.equal(queued, !live)
  }
  await away()
  await back()
  await phone.post('/wait', { for: 'queue_empty' })
})

test('a preview may announce more than comes; one stanza may come at each login, whatever is answered', async () => {
  const ids = await away(2)
  await phone.post('/faults', { kind: 'preview_more', extra: 5 })
  await phone.post('/faults', { kind: 'offline_never_settles', id: ids[1] })
  /** @type {string[]} */
  const previews = []
  await back()
  client.sock?.ws.on('CB:ib,,offline_preview', (/** @type {any} */ { content }) => previews.push(content[0].attrs.count))
  await phone.post('/wait', { for: 'connected' })
  await phone.post('/receipts/wait', { ids })
  assert.deepEqual(previews, ['7'])
  for (let login = 0; login < 2; login++) {
    const { items } = await phone.get('/offline') // a good copy of it among them: stock Baileys cannot read it twice
    assert.deepEqual([...new Set(items.map((/** @type {any} */ { id }) => id))], [ids[1]])
    await away()
    await back()
    await client.until(() => client.stanzas.some(({ id }) => id === ids[1]), 'it again')
    await phone.post('/wait', { for: 'connected' })
  }
  await phone.post('/faults', { kind: 'clear' })
  await away()
  await back()
  await phone.post('/wait', { for: 'queue_empty' })
})

test('a nacked stanza may stay first and withhold the rest, until it gets a plain ack', async () => {
  const bad = await phone.post('/send', { from: 'Ben', to: group, text: 'bad', fault: { corrupt: true, never: true, hold: true } })
  await phone.post('/faults', { kind: 'nack_sticks' })
  await phone.post('/release', { ids: [bad.id] })
  await phone.post('/receipts/wait', { ids: [bad.id], kinds: ['nack'] })
  const [next] = await away(1)
  await back()
  await client.until(() => client.stanzas.some(({ id }) => id === bad.id), 'the stuck one')
  await phone.post('/receipts/wait', { ids: [bad.id], kinds: ['nack'] })
  assert.deepEqual((await phone.get('/offline')).items.map((/** @type {any} */ { id, sent }) => [id, sent]), [[bad.id, true], [next, false]])
  await phone.post('/faults', { kind: 'clear' })
  await client.message(next)
  await phone.post('/wait', { for: 'queue_empty' })
})

test('a deaf connection answers queries and hears nothing; deaf for groups alone it hears direct messages; a new one hears all', async () => {
  for (const groups of [true, false]) {
    await phone.post('/faults', { kind: 'deaf_connection', groups })
    const unheard = await phone.post('/send', { from: 'Ana', to: group, text: 'unheard' })
    const direct = await phone.post('/send', { from: 'Ana', to: 'direct', text: 'perhaps' })
    await client.sock?.fetchBlocklist()
    if (groups) await client.message(direct.id)
    const waiting = (await phone.get('/offline')).items.map((/** @type {any} */ { id }) => id)
    assert.deepEqual(waiting.filter((/** @type {string} */ id) => id !== direct.id || !groups), groups ? [unheard.id] : [unheard.id, direct.id])
    await away()
    await back()
    await Promise.all([unheard.id, direct.id].map((id) => client.message(id)))
    await phone.post('/wait', { for: 'queue_empty' })
  }
})

test('too many queries get 429; too many logins are refused with 503', async () => {
  await phone.post('/realism', { queries_per_minute: 3 })
  await assert.rejects(async () => { for (let i = 0; i < 10; i++) await client.sock?.fetchBlocklist() }, /rate-overlimit/)
  await phone.post('/realism', { profile: 'default', logins_per_minute: 1 })
  await away()
  client.reconnect()
  assert.equal((await client.closed()).code, 503)
  await phone.post('/realism', { profile: 'default' })
  await back()
  await phone.post('/wait', { for: 'connected' })
})

test('unknown switches, profiles and kinds of value are refused', async () => {
  for (const body of [{ profile: 'nice' }, { weather: true }, { debts: 'yes' }, { time_scale: 0 }]) await assert.rejects(phone.post('/realism', body), { status: 400 })
  await assert.rejects(phone.post('/notification', { type: 'rain' }), { status: 400 })
})

test('success before pairing leaves a client without an account', async () => {
  const other = await startProgram()
  await other.post('/faults', { kind: 'success_before_pairing' })
  const fresh = new Client(other.endpoints, makeAuth())
  await fresh.until(() => fresh.open, 'stock Baileys takes it for a login')
  assert.equal(fresh.auth.creds.me?.id, undefined)
  assert.deepEqual(await other.get('/state').then(({ paired, logins }) => [paired, logins]), [false, 0])
  await fresh.end()
  await other.stop()
})

test('linking: too old a version, an expired QR, a refresh at the scan, a restricted account fail at the phone alone', async () => {
  const other = await startProgram('--realism', 'min_version=2.9999.1')
  assert.equal((await other.get('/realism')).min_version, '2.9999.1')
  const fresh = new Client(other.endpoints, makeAuth())
  const qr = await fresh.until(() => fresh.qr, 'QR')
  await assert.rejects(other.post('/scan', { qr }), /couldn't link device/)
  await other.post('/realism', { min_version: '', qr_expires: true, time_scale: 1e6 })
  await assert.rejects(other.post('/scan', { qr }), /expired/)
  await other.post('/realism', { profile: 'kind' })
  await other.post('/faults', { kind: 'refresh_at_scan' })
  await assert.rejects(other.post('/scan', { qr }), /retired/)
  await other.post('/faults', { kind: 'flagged', hours: 1 })
  await assert.rejects(other.post('/scan', { qr }), /restricted until/)
  assert.equal(fresh.lastClose, null)
  await fresh.end()
  await other.stop()
})

test('pairing by code: the display is checked, the code has its time, the server can ask for another', async () => {
  const other = await startProgram('--realism', 'check_display=true')
  const { owner } = await other.get('/state')
  const number = owner.pn.split('@')[0]
  const odd = new Client(other.endpoints, makeAuth(), { browser: ['wa-worker', 'Desktop', '1.0'] })
  await odd.until(() => odd.qr, 'QR')
  await assert.rejects(other.post('/pair_code', { code: 'ABCDEFGH' }), { status: 409 })
  await odd.sock?.requestPairingCode(number) // stock Baileys does not wait for the answer
  await assert.rejects(other.post('/pair_code', { code: 'ABCDEFGH' }), { status: 409 })
  await odd.end()
  const good = new Client(other.endpoints, makeAuth(), { browser: ['Linux', 'Chrome', '1.0'] })
  await good.until(() => good.qr, 'QR')
  const first = await good.sock?.requestPairingCode(number)
  await other.post('/pair_code/refresh')
  await assert.rejects(other.post('/pair_code', { code: first }), /retired/)
  const code = await good.sock?.requestPairingCode(number)
  await other.post('/realism', { time_scale: 1e6 })
  await assert.rejects(other.post('/pair_code', { code }), /expired/)
  await other.post('/realism', { time_scale: 1 })
  await other.post('/pair_code', { code })
  assert.equal((await good.closed()).code, 515)
  await good.end()
  await other.stop()
})
