/** What WhatsApp is answered, stanza by stanza: against the virtual phone, which ends the stream for a wrong answer. */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Database, pair, Sidecar, startPhone } from './support/worker.js'

/** @type {any} */
let phone
/** @type {Database} */
let database
/** @type {Sidecar} */
let sidecar
let group = ''

before(async () => {
  phone = await startPhone()
  database = new Database()
  sidecar = new Sidecar(database)
  await pair(sidecar, phone)
  group = (await phone.post('/groups', { subject: 'Acks', participants: ['Ana', 'Ben'] })).id
})
after(async () => {
  sidecar.child.kill('SIGKILL')
  phone.stop()
})

async function reconnect(params = {}) {
  await sidecar.call('close', { logout: false, drain_ms: 5_000 })
  await sidecar.connection('close')
  await sidecar.connect(phone, params)
  await sidecar.connection('open')
}

/** Another process, with the same database. */
async function restart() {
  await sidecar.call('close', { logout: false, drain_ms: 5_000 })
  await sidecar.stop()
  sidecar = new Sidecar(database)
  await sidecar.connect(phone)
  await sidecar.connection('open')
}

/** @param {string} id @param {string[]} kinds */
const answered = async (id, ...kinds) => {
  const { done } = await phone.post('/receipts/wait', { ids: [id], kinds, timeout_ms: 30_000 })
  assert.ok(done, `${kinds} for ${id}`)
}
/** @param {string} id @returns {Promise<any[]>} */
const answers = async (id) => (await phone.all('/receipts')).filter((/** @type {any} */ one) => one.id === id)
/** @param {string} id @param {number} times */
async function acked(id, times) {
  const until = performance.now() + 30_000
  while ((await answers(id)).filter(({ kind }) => kind === 'ack').length < times) {
    assert.ok(performance.now() < until, `ack ${times} of ${id}`)
    await sleep(50)
  }
}
const empty = () => phone.post('/wait', { for: 'queue_empty', timeout_ms: 30_000 })
const logged = async (/** @type {string} */ kind) => (await phone.all('/log')).filter((/** @type {any} */ one) => one.kind === kind)

test('what cannot be decrypted is journaled, asked for, and acked without an error; the good copy is receipted', async () => {
  const { id } = await phone.post('/send', { from: 'Ana', to: group, text: 'in the end', fault: { corrupt: true } })
  await answered(id, 'receipt')
  await empty()
  const all = await answers(id)
  assert.deepEqual(all.map(({ kind }) => kind), ['retry', 'ack', 'receipt'])
  assert.deepEqual(database.texts(id), ['in the end'])
})

test('with the setting it is refused with NACK 500, as stock Baileys does', async () => {
  await reconnect({ nack_undecryptable: true })
  const { id } = await phone.post('/send', { from: 'Ana', to: group, text: 'never', fault: { corrupt: true, never: true } })
  await answered(id, 'nack')
  assert.deepEqual((await answers(id)).map(({ kind, error }) => [kind, error]), [['retry', null], ['nack', '500']])
  await reconnect()
})

test('a server that keeps what was refused keeps nothing back: a plain ack is no refusal', async () => {
  await phone.post('/faults', { kind: 'nack_sticks' })
  const bad = await phone.post('/send', { from: 'Ana', to: group, text: 'never', fault: { corrupt: true, never: true } })
  await answered(bad.id, 'ack')
  await sidecar.call('close', { logout: false, drain_ms: 5_000 })
  await sidecar.connection('close')
  const next = await phone.post('/send', { from: 'Ben', to: group, text: 'not withheld' })
  await sidecar.connect(phone)
  await answered(next.id, 'receipt')
  await phone.post('/faults', { kind: 'clear' })
  await empty()
})

test('a message is asked for five times in all, however many connections it comes on', async () => {
  const { id } = await phone.post('/send', { from: 'Ana', to: group, text: 'never', fault: { corrupt: true, never: true, hold: true } })
  await sidecar.call('close', { logout: false, drain_ms: 5_000 })
  await sidecar.connection('close')
  await phone.post('/release', { ids: [id] })
  await phone.post('/faults', { kind: 'offline_never_settles', id })
  for (let times = 1; times <= 7; times++) {
    await sidecar.connect(phone)
    await sidecar.connection('open')
    await acked(id, times)
    await sidecar.call('close', { logout: false, drain_ms: 5_000 })
    await sidecar.connection('close')
  }
  const counts = (await answers(id)).filter(({ kind }) => kind === 'retry').map(({ count }) => count)
  assert.deepEqual(counts, ['1', '2', '3', '4', '5'])
  assert.deepEqual((await answers(id)).filter(({ kind }) => kind === 'nack'), [])
  await phone.post('/faults', { kind: 'clear' })
  await sidecar.connect(phone)
  await sidecar.connection('open')
  await empty()
})

test('garbage under the id of another member\'s message uses up no request for that one', async () => {
  const id = `3EB0${'5'.repeat(16)}`
  const garbage = { from: 'Ben', to: group, text: '', id, fault: { garbage: 120, never: true } }
  await phone.post('/send_many', { items: Array.from({ length: 6 }, () => garbage) })
  await empty()
  assert.equal((await answers(id)).filter(({ kind }) => kind === 'retry').length, 5)
  await phone.post('/send', { from: 'Ana', to: group, text: 'hers', id, fault: { corrupt: true } })
  await sidecar.until(() => database.texts(id)[0] === 'hers', 'the good copy of her message')
  await empty()
})

for (const forgotten of [false, true]) {
  const name = forgotten
    ? 'whose hash is forgotten is asked for: its counter alone does not tell; not so a direct one'
    : 'that an earlier process committed gets the normal receipt, and is not asked for'
  test(`a live copy of a message ${name}`, async () => {
    for (const to of [group, 'direct']) await phone.post('/send', { from: 'Ana', to, text: 'a session' })
    await empty()
    const sent = []
    for (const to of [group, 'direct']) sent.push(await phone.post('/send', { from: 'Ana', to, text: 'twice', fault: { again: true } }))
    for (const to of [group, 'direct']) await phone.post('/send', { from: 'Ana', to, text: 'later' })
    await empty()
    await restart()
    if (forgotten) database.hashes.clear()
    await phone.post('/release', { ids: sent.map(({ id }) => id) })
    await empty()
    if (forgotten) {
      const [{ id }] = sent.splice(0, 1)
      assert.ok((await answers(id)).some(({ kind }) => kind === 'retry'))
      await sidecar.until(() => database.texts(id).length === 2, 'the good copy')
    }
    for (const { id } of sent) {
      assert.deepEqual((await answers(id)).map(({ kind, type }) => [kind, type]), [['receipt', 'inactive'], ['receipt', 'inactive']])
      const copies = database.stanzas.filter(({ attrs }) => attrs.id === id)
      assert.equal(copies.filter(({ failure, hashes }) => failure === null && hashes.length > 0).length, 1, 'it was read once')
      if (!forgotten && id === sent[0].id) assert.equal(copies.length, 1, 'nothing is journaled twice')
    }
  })
}

test('own messages from other devices get the receipt of a sender, in every sort of chat', async () => {
  const sent = [
    await phone.post('/send', { from: 'me', to: group, text: 'to all' }),
    await phone.post('/send', { from: 'me', to: 'Ana', text: 'to one, by LID' }),
    await phone.post('/send', { from: 'me', to: 'Ana', text: 'to one, by number', addressing: 'pn' }),
    await phone.post('/send', { from: 'me', to: 'Ana', text: 'to one, by number alone', addressing: 'pn', omit_alt: true }),
  ]
  for (const { id } of sent) await answered(id, 'receipt')
  await empty()
  for (const { id } of sent) {
    const all = await answers(id)
    assert.deepEqual(all.map(({ kind, type }) => [kind, type]), [['receipt', 'sender']], JSON.stringify(all))
    assert.ok(all[0].to, 'it is addressed')
  }
})

test('a bot\'s message without its secret is refused with 495', async () => {
  const { id } = await phone.post('/bot', { to: group })
  await answered(id, 'nack')
  assert.deepEqual((await answers(id)).map(({ kind, error }) => [kind, error]), [['nack', '495']])
})

test('a change of the account\'s settings is acked, and no collection is fetched for it', async () => {
  const since = (await phone.get('/log')).next
  const { items: [{ id }] } = await phone.post('/notification', { type: 'server_sync', collections: ['regular', 'critical_block'] })
  await answered(id, 'ack')
  const after = await phone.post('/send', { from: 'Ana', to: group, text: 'after it' })
  await answered(after.id, 'receipt')
  const queries = (await phone.get(`/log?since=${since}`)).items.filter((/** @type {any} */ one) => one.xmlns === 'w:sync:app:state')
  assert.deepEqual(queries, [])
})

test('collections of the app state are neither fetched nor stored, but for the one that has the account\'s name', async (t) => {
  const server = await startPhone()
  const kept = new Database()
  const fresh = new Sidecar(kept)
  t.after(() => {
    fresh.child.kill('SIGKILL')
    server.stop()
  })
  await server.post('/me', { biz: false })
  await server.post('/app_state', { contacts: 5000 })
  await server.post('/app_state', { collection: 'critical_block', entries: [{ index: ['setting_pushName'], value: { pushNameSetting: { name: 'Olivia of the app state' } } }] })
  await pair(fresh, server)
  await fresh.until(() => kept.creds?.includes('Olivia of the app state'), 'the name')
  await server.post('/app_state', { contacts: 1 })
  await server.post('/wait', { for: 'queue_empty', timeout_ms: 30_000 })
  const asked = (await server.all('/log')).filter((/** @type {any} */ one) => one.kind === 'app_state')
  assert.deepEqual(asked.map((/** @type {any} */ { collections }) => collections), [['critical_block']])
  const stored = [...kept.keys].filter(([name]) => name.startsWith('app-state-sync-version/'))
  assert.ok(stored.reduce((sum, [, value]) => sum + value.length, 0) < 1_000, JSON.stringify(stored.map(([name, value]) => [name, value.length])))
  const shown = (await server.all('/log')).filter((/** @type {any} */ one) => one.kind === 'presence' && one.type === 'available')
  assert.deepEqual(shown, [], 'a name alone does not make it look online')
})

test('nothing was answered wrongly, and nothing is owed', async () => {
  assert.deepEqual([...await logged('bad_ack'), ...await logged('debt')], [])
})
