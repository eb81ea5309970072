import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { proto } from 'baileys'
import { Database, pair, Sidecar, startPhone } from './support/worker.js'

/** @type {any} */
let phone
/** @type {Sidecar[]} */
const running = []
let people = 0

before(async () => { phone = await startPhone() })
after(async () => {
  for (const sidecar of running) sidecar.child.kill('SIGKILL')
  phone.stop()
})

/** @param {Database} [database] @param {Record<string, string>} [env] */
function start(database = new Database(), env = {}) {
  const sidecar = new Sidecar(database, env)
  running.push(sidecar)
  return sidecar
}

/** One paired account serves the file: pairing uploads 812 keys. @type {Promise<Database> | undefined} */
let pairedDatabase
async function loggedIn() {
  pairedDatabase ??= (async () => {
    const database = new Database()
    const sidecar = start(database)
    await pair(sidecar, phone)
    await sidecar.call('close', { logout: false, drain_ms: 5_000 })
    await sidecar.stop()
    return database
  })()
  const database = await pairedDatabase
  const sidecar = start(database)
  await sidecar.connect(phone)
  await sidecar.connection('open')
  return { sidecar, database }
}

async function makeGroup() {
  const name = `Person ${(people += 1)}`
  const { id } = await phone.post('/groups', { subject: `Group ${people}`, participants: [name], addressing_mode: people % 2 ? 'lid' : 'pn', notify: false })
  return { id, name }
}

/** The sidecar's gate holds a frame: Baileys has answered what came. @param {Sidecar} sidecar */
async function held(sidecar) {
  for (const deadline = Date.now() + 30_000; (await sidecar.call('ping')).held_frames === 0;) assert.ok(Date.now() < deadline, 'no frame is held')
}

/** @param {string} id */
const answersTo = async (id) => (await phone.all('/receipts')).filter((/** @type {any} */ one) => one.id === id)

/** @param {string} id @param {number} [timeout_ms] @param {string[]} [kinds] */
const receipt = (id, timeout_ms = 10_000, kinds = ['receipt']) => phone.post('/receipts/wait', { ids: [id], timeout_ms, kinds })

test('a phone scans the QR; after the restart that WhatsApp asks for, the session is open', async () => {
  const { sidecar, database } = await loggedIn()
  const state = await phone.get('/state')
  assert.equal(state.paired, true)
  assert.ok(database.creds?.includes('"me"'))
  assert.ok([...database.keys.keys()].filter((key) => key.startsWith('pre-key/')).length > 800)
  await sidecar.stop()
})

test('a message is committed with its text, and only then receipted', async () => {
  const { sidecar, database } = await loggedIn()
  const { id: group, name } = await makeGroup()
  let release = () => {}
  const answered = new Promise((resolve) => { release = () => resolve(undefined) })
  sidecar.beforeCommit = (batch) => (batch.stanzas.length > 0 ? answered : undefined)
  const { id } = await phone.post('/send', { from: name, to: group, text: 'hello' })
  await held(sidecar)
  const released = Date.now()
  release()
  assert.equal((await receipt(id)).done, true)
  for (const { at_ms: at } of await answersTo(id)) assert.ok(at >= released, 'a receipt left before the commit was answered')
  assert.deepEqual(database.texts(id), ['hello'])
  const [stanza] = database.stanzas.filter((s) => s.attrs.id === id)
  assert.equal(stanza.key.remoteJid, group)
  assert.equal(stanza.key.fromMe, false)
  assert.ok(stanza.hashes.length >= 1)
  await sidecar.stop()
})

test('killed while the commit is under way: the message comes again and is stored once', async () => {
  const { sidecar, database } = await loggedIn()
  const { id: group, name } = await makeGroup()
  sidecar.beforeCommit = (batch) => (batch.stanzas.length > 0 ? new Promise(() => {}) : undefined)
  const { id } = await phone.post('/send', { from: name, to: group, text: 'survives' })
  await held(sidecar)
  sidecar.child.kill('SIGKILL')
  await sidecar.exited
  await phone.post('/wait', { for: 'disconnected' }) // and has read what came before
  assert.deepEqual([await answersTo(id), database.texts(id)], [[], []])
  const next = (await loggedIn()).sidecar
  assert.equal((await receipt(id)).done, true)
  assert.deepEqual(database.texts(id), ['survives'])
  await next.stop()
})

test('killed after the commit and before its answer: the redelivery is receipted and swallowed', async () => {
  const { sidecar, database } = await loggedIn()
  const { id: group, name } = await makeGroup()
  let committed = ''
  sidecar.beforeCommit = (batch) => {
    if (batch.stanzas.length === 0) return undefined
    database.commit(batch)
    committed = batch.stanzas[0].attrs.id
    return new Promise(() => {})
  }
  const { id } = await phone.post('/send', { from: name, to: group, text: 'once' })
  while (committed !== id) await new Promise(setImmediate)
  sidecar.child.kill('SIGKILL')
  await sidecar.exited
  const next = (await loggedIn()).sidecar
  assert.equal((await receipt(id)).done, true)
  assert.deepEqual(database.texts(id), ['once'])
  assert.equal((await next.call('ping')).swallowed, 1)
  const { items } = { items: await phone.all('/receipts') }
  assert.deepEqual(items.filter((/** @type {any} */ r) => r.id === id && ['retry', 'nack'].includes(r.kind)), [])
  await next.stop()
})

test('a connection that drops in mid-burst loses nothing and asks for nothing again', async () => {
  const { sidecar, database } = await loggedIn()
  const { id: group, name } = await makeGroup()
  await phone.post('/faults', { kind: 'drop', after: 20 })
  const { ids } = await phone.post('/burst', { from: [name], to: [group], count: 60, text_prefix: 'burst' })
  await sidecar.connection('close')
  await sidecar.call('close', { logout: false, drain_ms: 5_000 })
  await sidecar.connect(phone)
  await sidecar.connection('open')
  const { missing } = await phone.post('/receipts/wait', { ids, timeout_ms: 15_000 })
  assert.deepEqual(missing, [])
  for (const [i, id] of ids.entries()) assert.deepEqual(database.texts(id), [`burst-${i}`])
  const { items } = { items: await phone.all('/receipts') }
  assert.deepEqual(items.filter((/** @type {any} */ r) => ids.includes(r.id) && ['retry', 'nack'].includes(r.kind)), [])
  await sidecar.stop()
})

test('messages that come out of order are decrypted all the same, also after a restart in between', async () => {
  const { sidecar, database } = await loggedIn()
  const { id: group, name } = await makeGroup()
  const first = await phone.post('/send', { from: name, to: group, text: 'one' })
  const held = await phone.post('/send', { from: name, to: group, text: 'two', fault: { hold: true } })
  const third = await phone.post('/send', { from: name, to: group, text: 'three' })
  for (const { id } of [first, third]) assert.equal((await receipt(id)).done, true)
  await sidecar.call('close', { logout: false, drain_ms: 5_000 })
  await sidecar.stop()
  const next = (await loggedIn()).sidecar
  await phone.post('/release', { ids: [held.id] })
  assert.equal((await receipt(held.id)).done, true)
  assert.deepEqual([first, held, third].map(({ id }) => database.texts(id)), [['one'], ['two'], ['three']])
  await next.stop()
})

test('what cannot be decrypted is journaled with its reason before the retry is asked for; the good copy follows', async () => {
  const { sidecar, database } = await loggedIn()
  const { id: group, name } = await makeGroup()
  const { id } = await phone.post('/send', { from: name, to: group, text: 'in the end', fault: { corrupt: true } })
  assert.equal((await receipt(id)).done, true)
  const copies = database.stanzas.filter((s) => s.attrs.id === id)
  assert.deepEqual(copies[0].content, { senderKeyDistributionMessage: {} }, 'the share was readable, its key stays here')
  assert.match(copies[0].failure, /\w/)
  assert.deepEqual(database.texts(id), ['in the end'])
  await sidecar.stop()
})

test('a forged sender-key signature is refused: a stub with the reason, and no content', async () => {
  const { sidecar, database } = await loggedIn()
  const { id: group, name } = await makeGroup()
  const genuine = await phone.post('/send', { from: name, to: group, text: 'genuine' })
  assert.equal((await receipt(genuine.id)).done, true)
  const { id } = await phone.post('/send', { from: name, to: group, text: 'forged', fault: { tamper_signature: true } })
  await receipt(id, 10_000, ['retry', 'nack'])
  const [stub] = database.stanzas.filter((s) => s.attrs.id === id)
  assert.match(stub.failure, /signature/i)
  assert.equal(stub.content?.conversation, undefined)
  await sidecar.stop()
})

test('a failed read of the state shuts the gate: no NACK leaves, and the message comes again', async () => {
  const { sidecar, database } = await loggedIn()
  const { id: group, name } = await makeGroup()
  sidecar.beforeGet = ({ type }) => { if (type === 'session' || type === 'sender-key') throw Object.assign(new Error('no answer'), { data: { reason: 'unavailable' } }) }
  const { id } = await phone.post('/send', { from: name, to: group, text: 'patience' })
  const { close } = await sidecar.connection('close')
  assert.match(close.message, /no answer/)
  const { items } = { items: await phone.all('/receipts') }
  assert.deepEqual(items.filter((/** @type {any} */ r) => r.id === id), [])
  sidecar.beforeGet = () => {}
  await sidecar.connect(phone)
  assert.equal((await receipt(id)).done, true)
  assert.deepEqual(database.texts(id), ['patience'])
  await sidecar.stop()
})

for (const kind of ['replayed_chain', 'expired_chain', 'future_chain', 'foreign_leaf', 'wrong_serial']) {
  test(`a server with this chain is refused: ${kind}`, async () => {
    const sidecar = start(new Database())
    await phone.post('/faults', { kind })
    await sidecar.connect(phone)
    const { close } = await sidecar.connection('close')
    assert.equal(close.code, 400)
    assert.match(close.message, /certificate/)
    await sidecar.stop()
  })
}

test('a server whose certificates have another root is refused by name; the check can be turned off', async () => {
  const { sidecar } = await loggedIn()
  await sidecar.call('close', { logout: false, drain_ms: 5_000 })
  await sidecar.connection('close')
  await phone.post('/faults', { kind: 'foreign_root' })
  await sidecar.connect(phone)
  const { close } = await sidecar.connection('close')
  assert.match(close.message, /noise intermediate certificate signature invalid/)
  await phone.post('/faults', { kind: 'foreign_root' })
  await sidecar.connect(phone, { strict_certs: false })
  await sidecar.connection('open')
  await sidecar.stop()
})

test('the account never shows as online', async () => {
  const since = (await phone.all('/log')).length
  const { sidecar } = await loggedIn()
  const said = async () => /** @type {any[]} */ (await phone.all('/log')).filter((/** @type {any} */ item) => item.kind === 'presence').map((/** @type {any} */ item) => ({ n: item.n, type: item.type }))
  for (const deadline = Date.now() + 30_000; !(await said()).some(({ n }) => n >= since);) assert.ok(Date.now() < deadline, 'it said nothing of its presence')
  assert.deepEqual((await said()).filter(({ type }) => type !== 'unavailable'), [])
  await sidecar.stop()
})

test('HTTP 503 at the upgrade is a close, not a silence', async () => {
  const { sidecar } = await loggedIn()
  await sidecar.call('close', { logout: false, drain_ms: 5_000 })
  await sidecar.connection('close')
  await phone.post('/faults', { kind: 'http_503' })
  await sidecar.connect(phone)
  const { close } = await sidecar.connection('close')
  assert.deepEqual([close.code, close.phase], [503, 'connecting'])
  await sidecar.stop()
})

test('a frame that does not decrypt ends the socket: the counters are apart for good', async () => {
  const { sidecar } = await loggedIn()
  await phone.post('/faults', { kind: 'corrupt_frame' })
  const { close } = await sidecar.connection('close')
  assert.equal(close.code, 428)
  await sidecar.stop()
})

test('with the log full the socket is paused, and everything arrives when the worker answers again', async () => {
  const { sidecar, database } = await loggedIn()
  await sidecar.call('close', { logout: false, drain_ms: 5_000 })
  await sidecar.connection('close')
  const bound = 200_000
  await sidecar.connect(phone, { max_log_bytes: bound })
  await sidecar.connection('open')
  const { id: group, name } = await makeGroup()
  let release = () => {}
  const held = new Promise((resolve) => { release = () => resolve(undefined) })
  sidecar.beforeCommit = (batch) => (batch.stanzas.length > 0 ? held : undefined)
  const { ids } = await phone.post('/burst', { from: [name], to: [group], count: 400, text_prefix: 'flood', size: 3_000 })
  release()
  const { missing } = await phone.post('/receipts/wait', { ids, timeout_ms: 20_000 })
  assert.deepEqual(missing, [])
  assert.ok(ids.every((/** @type {string} */ id) => database.texts(id).length === 1))
  // The whole flood takes 4 MB in the log. One read of the socket holds some frames beyond the bound.
  const { log_bytes_max: peak } = await sidecar.call('ping')
  assert.ok(peak < 4 * bound, `${peak} bytes in the log`)
  await sidecar.stop()
})

test('groups are listed by name, without their members except admins', async () => {
  const { sidecar } = await loggedIn()
  const { groups } = await sidecar.call('groups')
  assert.ok(groups.length > 0)
  assert.deepEqual(Object.keys(groups[0]).sort(), ['addressing_mode', 'admins', 'id', 'size', 'subject'])
  await sidecar.stop()
})

test('the members of a group that is named come with the same one query, and the log says who is who', async () => {
  const { sidecar } = await loggedIn()
  await makeGroup()
  /** @type {any[]} */
  const told = []
  sidecar.beforeCommit = (batch) => { told.push(...batch.events.filter((/** @type {any} */ event) => event.type === 'identity')) }
  const queries = async () => (await phone.all('/log')).filter((/** @type {any} */ line) => line.kind === 'query' && line.xmlns === 'w:g2').length
  const [before, { groups: [{ id }] }] = [await queries(), await sidecar.call('groups')]
  const { groups, asked_at_ms: at } = await sidecar.call('groups', { members_of: [id, 'nowhere@g.us'] })
  assert.equal(await queries(), before + 2)
  assert.ok(Math.abs(at - Date.now()) < 60_000)
  const [{ members, size }, ...others] = groups.filter((/** @type {any} */ group) => group.members)
  assert.deepEqual([members.length, others], [size, []])
  for (const member of members) assert.notEqual(member.id.endsWith('@lid'), member.also.endsWith('@lid'))
  for (const deadline = Date.now() + 30_000; told.length < size;) {
    assert.ok(Date.now() < deadline, 'the log does not say who they are')
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  assert.deepEqual(told.flatMap(({ lid, pn }) => [lid, pn]).sort(), members.flatMap((/** @type {any} */ one) => [one.id, one.also]).sort())
  await sidecar.stop()
})

test('no key, no message and no number is in the log, at any level', () => {
  const log = running.flatMap((sidecar) => sidecar.log).join('\n')
  assert.ok(log.length > 0)
  for (const secret of ['hello', 'survives', 'in the end', 'privKey', 'noiseKey', 'BEGIN', 'chainKey']) assert.ok(!log.includes(secret), secret)
  assert.doesNotMatch(log, /[A-Za-z0-9+/]{44}/)
})

test('the sidecar ends with code 0 when its stdin ends', async () => {
  const sidecar = start()
  await sidecar.call('ping')
  assert.deepEqual(await sidecar.stop(), { code: 0, signal: null })
})

test('a call that is not of the wire\'s form is an error, and the sidecar goes on', async () => {
  const sidecar = start()
  await assert.rejects(sidecar.call('connect', { epoch: 'one' }), /invalid parameters of connect/)
  await assert.rejects(sidecar.call('groups'), /no socket is open/)
  assert.ok((await sidecar.call('ping')).rss_bytes > 0)
  await sidecar.stop()
})

test('the same stanza twice within one connection is stored once and receipted twice', async () => {
  const { sidecar, database } = await loggedIn()
  const { id: group, name } = await makeGroup()
  const { id } = await phone.post('/send', { from: name, to: group, text: 'twice', fault: { duplicate: true } })
  const after = await phone.post('/send', { from: name, to: group, text: 'after' })
  assert.equal((await receipt(after.id)).done, true)
  assert.deepEqual(database.texts(id), ['twice'])
  const answers = (await phone.all('/receipts')).filter((/** @type {any} */ r) => r.id === id)
  assert.deepEqual(answers.map((/** @type {any} */ r) => r.kind), ['receipt', 'receipt'])
  await sidecar.stop()
})

test('a text of 5 MB passes, alone in its batch', async () => {
  const { sidecar, database } = await loggedIn()
  const { id: group, name } = await makeGroup()
  const text = 'x'.repeat(5_000_000)
  const { id } = await phone.post('/send', { from: name, to: group, text })
  assert.equal((await receipt(id)).done, true)
  assert.deepEqual(database.texts(id), [text])
  await sidecar.stop()
})

test('a text that would not fit into a line of the wire is kept as a stub, and what comes behind it goes on', async () => {
  const { sidecar, database } = await loggedIn()
  const { id: group, name } = await makeGroup()
  const { id } = await phone.post('/send', { from: name, to: group, text: '\u0001'.repeat(6_000_000) })
  const after = await phone.post('/send', { from: name, to: group, text: 'after' })
  assert.deepEqual((await phone.post('/receipts/wait', { ids: [id, after.id], timeout_ms: 10_000 })).missing, [])
  const [stanza] = database.stanzas.filter((s) => s.attrs.id === id)
  assert.deepEqual([stanza.content, stanza.failure], [null, 'content too large for the wire'])
  assert.deepEqual(database.texts(after.id), ['after'])
  await sidecar.stop()
})

test('a key share for a group that no database can name is refused, and the message is read all the same', async () => {
  const { sidecar, database } = await loggedIn()
  const { name } = await makeGroup()
  /** As Postgres does. @param {string[]} ids */
  const refuse = (ids) => { if (ids.some((id) => id.includes('\0'))) throw Object.assign(new Error('22P05'), { data: { reason: 'stale' } }) }
  sidecar.beforeGet = ({ ids }) => refuse(ids)
  sidecar.beforeCommit = ({ keys = {} }) => refuse(Object.values(keys).flatMap((/** @type {object} */ values) => Object.keys(values)))
  const key = proto.SenderKeyDistributionMessage.encode({ id: 1, iteration: 0, chainKey: Buffer.alloc(32, 1), signingKey: Buffer.alloc(33, 5) }).finish()
  const share = { groupId: '1\u0000@g.us', axolotlSenderKeyDistributionMessage: Buffer.concat([Buffer.of(0x33), key]).toString('base64') }
  const { owner } = await phone.get('/state')
  const { id } = await phone.post('/send', { from: name, to: owner.name, message: { conversation: 'with a gift', senderKeyDistributionMessage: share } })
  assert.equal((await receipt(id)).done, true)
  const [stanza] = database.stanzas.filter(({ attrs }) => attrs.id === id)
  assert.deepEqual([stanza.failure, stanza.hashes.length], [null, 1])
  await sidecar.stop()
})

test('a key share in the name of a type of keys stops nothing', async () => {
  const { sidecar, database } = await loggedIn()
  const { id: group, name } = await makeGroup()
  const { owner } = await phone.get('/state')
  const key = proto.SenderKeyDistributionMessage.encode({ id: 1, iteration: 0, chainKey: Buffer.alloc(32, 1), signingKey: Buffer.alloc(33, 5) }).finish()
  const bytes = Buffer.concat([Buffer.of(0x33), key]).toString('base64')
  for (const groupId of ['sender-key', 'session', 'lid-mapping', 'pre-key', 'identity-key']) {
    const message = { conversation: groupId, senderKeyDistributionMessage: { groupId, axolotlSenderKeyDistributionMessage: bytes } }
    const { id } = await phone.post('/send', { from: name, to: owner.name, message })
    assert.equal((await receipt(id)).done, true, groupId)
  }
  const after = await phone.post('/send', { from: name, to: group, text: 'after it' })
  assert.equal((await receipt(after.id)).done, true)
  assert.deepEqual(database.texts(after.id), ['after it'])
  await sidecar.stop()
})

test('what the account writes to somebody mixes up neither their addresses nor their sessions', async () => {
  const { sidecar, database } = await loggedIn()
  const { name } = await makeGroup()
  const person = await phone.post('/people', { name })
  const { owner, me } = await phone.get('/state')
  for (const mode of ['lid', 'pn']) {
    const { id } = await phone.post('/send', { from: 'me', to: name, text: 'just the two of us', addressing: mode })
    assert.equal((await receipt(id)).done, true, mode)
  }
  const user = (/** @type {string} */ jid) => jid.split(/[:@]/)[0]
  const stored = (/** @type {string} */ id) => JSON.parse(database.keys.get(`lid-mapping/${id}`) ?? 'null')
  await sidecar.until(() => stored(user(me.id)), 'the own addresses')
  assert.equal(stored(user(me.id)), user(me.lid))
  assert.equal(stored(`${user(me.lid)}_reverse`), user(me.id), owner.name)
  assert.ok([null, user(person.lid)].includes(stored(user(person.pn))))
  const { id: group } = await phone.post('/groups', { subject: 'By number', participants: [name], addressing_mode: 'pn', notify: false })
  const theirs = await phone.post('/send', { from: name, to: group, text: 'theirs' })
  const ours = await phone.post('/send', { from: 'me', to: group, text: 'ours' })
  for (const { id } of [theirs, ours]) {
    assert.equal((await receipt(id)).done, true)
    assert.deepEqual((await answersTo(id)).map((/** @type {any} */ one) => one.kind), ['receipt'])
  }
  await sidecar.stop()
})

test('a view-once has no content, and says so', async () => {
  const { sidecar, database } = await loggedIn()
  const { id: group, name } = await makeGroup()
  const { id } = await phone.post('/send', { from: name, to: group, text: 'gone', fault: { unavailable: true } })
  await sidecar.until(() => database.stanzas.some((s) => s.attrs.id === id), 'the stanza')
  const [stanza] = database.stanzas.filter((s) => s.attrs.id === id)
  assert.equal(stanza.content, null)
  await sidecar.stop()
})

test('with a cold key cache and a slow database a burst of several senders is decrypted in full', async () => {
  const { sidecar, database } = await loggedIn()
  const groups = [await makeGroup(), await makeGroup()]
  sidecar.beforeGet = () => new Promise((resolve) => setTimeout(resolve, 20))
  sidecar.beforeCommit = () => new Promise((resolve) => setTimeout(resolve, 20))
  const { ids } = await phone.post('/burst', { from: groups.map(({ name }) => name), to: groups.map(({ id }) => id), count: 60, text_prefix: 'cold' })
  const { missing } = await phone.post('/receipts/wait', { ids, timeout_ms: 15_000 })
  assert.deepEqual(missing, [])
  assert.ok(ids.every((/** @type {string} */ id) => database.texts(id).length === 1))
  await sidecar.stop()
})

test('a status and a stanza of an unknown tag leave no debt: each gets its one answer, and nothing of it is stored', async () => {
  const { sidecar, database } = await loggedIn()
  const since = (await phone.get('/log')).next
  await phone.post('/realism', { strict_acks: true })
  const { id: status } = await phone.post('/send', { from: 'Ana', to: 'status', text: 'good morning' })
  const { id: newsletter } = await phone.post('/newsletter', { text: 'extra', as: 'status' })
  const from = 'status@broadcast'
  const unknown = { id: 'UNKNOWN-1', from, participant: '100000000000001@lid', recipient: '100000000000002@lid', type: 'media' }
  await phone.post('/stanza', { node: { tag: 'novelty', attrs: { from } } })
  await phone.post('/stanza', { node: { tag: 'novelty', attrs: { id: 'UNKNOWN-2' } } })
  await phone.post('/stanza', { node: { tag: 'novelty', attrs: unknown } })
  const [nack] = (await phone.post('/receipts/wait', { ids: [unknown.id], kinds: ['nack'], timeout_ms: 10_000 })).items
  await phone.post('/receipts/wait', { ids: [status, newsletter], kinds: ['ack'], timeout_ms: 10_000 })
  await phone.post('/wait', { for: 'queue_empty', timeout_ms: 10_000 })
  const { to, participant, recipient, type, error } = nack
  assert.deepEqual([nack.class, to, participant, recipient, type, error], ['novelty', from, unknown.participant, unknown.recipient, 'media', '488'])
  const answers = (await phone.all('/receipts')).filter((/** @type {any} */ one) => [status, newsletter, 'UNKNOWN-1', 'UNKNOWN-2'].includes(one.id))
  assert.deepEqual(answers.map((/** @type {any} */ one) => one.id).sort(), [status, newsletter, 'UNKNOWN-1'].sort(), 'one answer each')
  const wrong = (await phone.get(`/log?since=${since}`)).items.filter((/** @type {any} */ one) => one.kind === 'bad_ack')
  assert.deepEqual(wrong, [])
  const stored = database.stanzas.map((each) => each.attrs.id).filter((id) => [status, newsletter, 'UNKNOWN-1', 'UNKNOWN-2'].includes(id))
  assert.deepEqual(stored, [])
  await sidecar.stop()
})

test('logging out unlinks the device', async () => {
  const { sidecar } = await loggedIn()
  await sidecar.call('close', { logout: true, drain_ms: 5_000 })
  const { close } = await sidecar.connection('close')
  assert.equal(close.code, 401)
  await phone.post('/wait', { for: 'disconnected' })
  const { items } = { items: await phone.all('/log') }
  assert.equal(items.filter((/** @type {any} */ item) => item.kind === 'logout').length, 1)
  await sidecar.stop()
})

test('an account signature that was tampered with is refused by name, and nothing is stored', async () => {
  const database = new Database()
  const sidecar = start(database)
  await sidecar.connect(phone)
  const { qr } = await sidecar.notice('qr')
  await phone.post('/scan', { qr, tamper: 'account_signature', timeout_ms: 500 }).catch(() => {})
  const { close } = await sidecar.connection('close')
  assert.match(close.message, /account signature/)
  assert.equal(database.creds, null)
  await sidecar.stop()
})

test('an account is paired by a code that the user types into the phone', async () => {
  const database = new Database()
  const sidecar = start(database)
  await sidecar.connect(phone)
  const { qr } = await sidecar.notice('qr')
  const { owner } = await phone.get('/state')
  const { code, ttl_ms: ttl } = await sidecar.call('pairing_code', { phone: owner.pn.split('@')[0] })
  assert.match(code, /^[0-9A-Z]{8}$/)
  assert.ok(ttl > 170_000 && ttl <= 180_000, String(ttl))
  const asked = (await phone.all('/log')).findLast((/** @type {any} */ item) => item.kind === 'code_requested')
  const registered = (await phone.all('/log')).findLast((/** @type {any} */ item) => item.kind === 'registration')
  assert.deepEqual([asked.display, asked.platform, qr.split(',').at(-1), registered.device_type], ['Chrome (Linux)', '1', '1', 1])
  await phone.post('/pair_code', { code })
  const { close } = await sidecar.connection('close')
  assert.equal(close.code, 515)
  await sidecar.call('close', { logout: false, drain_ms: 5_000 })
  await sidecar.connect(phone)
  await sidecar.connection('open')
  await sidecar.stop()
})

test('a code that the server refuses is never handed out, and its code is told', async () => {
  const sidecar = start(new Database())
  await sidecar.connect(phone)
  const { qr } = await sidecar.notice('qr')
  await phone.post('/faults', { kind: 'iq_error', xmlns: 'md', code: 400 })
  await assert.rejects(sidecar.call('pairing_code', { phone: '4915112345678' }), (/** @type {any} */ error) => error.data?.status === 400)
  await phone.post('/scan', { qr })
  assert.equal((await sidecar.connection('close')).close.code, 515, 'the QR code is as good as before')
  await sidecar.stop()
})

test('a pairing code outlives the last QR code, and is told to be alone', async () => {
  const sidecar = start(new Database())
  await sidecar.connect(phone, { qr_timeout_ms: 200 })
  await sidecar.notice('qr')
  const { owner } = await phone.get('/state')
  const { code } = await sidecar.call('pairing_code', { phone: owner.pn.split('@')[0] })
  const { ttl_ms: left } = await sidecar.notice('qr', ({ qr }) => qr === null)
  assert.ok(left > 100_000, String(left))
  await phone.post('/pair_code', { code })
  assert.equal((await sidecar.connection('close')).close.code, 515)
  await sidecar.stop()
})

test('without a pairing code the socket ends with the last QR code', async () => {
  const sidecar = start(new Database())
  await sidecar.connect(phone, { qr_timeout_ms: 30 })
  const { close } = await sidecar.connection('close')
  assert.deepEqual([close.code, close.message, close.phase], [408, 'QR refs attempts ended', 'pairing'])
  await sidecar.stop()
})

test('a QR whose secret WhatsApp has retired is replaced, and the new one links', async () => {
  const database = new Database()
  const sidecar = start(database)
  await sidecar.connect(phone)
  const { qr: first, ttl_ms: whole } = await sidecar.notice('qr')
  await phone.post('/faults', { kind: 'retire_qr', qr: first })
  const { qr: second, ttl_ms: rest } = await sidecar.notice('qr')
  assert.ok(rest <= whole, 'the reference in it is the same and lives no longer')
  await sidecar.until(() => database.creds?.includes(second.split(',').at(-2)), 'the new secret in the database')
  await assert.rejects(phone.post('/scan', { qr: first }), /retired/)
  await phone.post('/scan', { qr: second })
  assert.equal((await sidecar.connection('close')).close.code, 515)
  const acks = (await phone.all('/receipts')).filter((/** @type {any} */ item) => item.type === 'companion_reg_refresh')
  assert.deepEqual(acks.map((/** @type {any} */ ack) => [ack.kind, ack.class]), [['ack', 'notification']])
  await sidecar.call('close', { logout: false, drain_ms: 5_000 })
  await sidecar.connect(phone)
  await sidecar.connection('open')
  await sidecar.stop()
})

for (const [stage, renewed] of /** @type {[string, boolean][]} */ ([['primary_hello', false], ['refresh_code', true]])) {
  test(`a QR that is retired after the stage ${stage} of a pairing code is ${renewed ? 'replaced' : 'left: both sides are agreeing on a secret'}`, async () => {
    const sidecar = start(new Database())
    await sidecar.connect(phone)
    const { qr } = await sidecar.notice('qr')
    const content = [{ tag: 'link_code_companion_reg', attrs: { stage }, content: [] }]
    const attrs = { from: 's.whatsapp.net', type: 'link_code_companion_reg', id: `STAGE-${stage}` }
    await phone.post('/stanza', { node: { tag: 'notification', attrs, content } })
    const acks = async () => (await phone.all('/receipts')).filter((/** @type {any} */ item) => item.type === 'companion_reg_refresh').length
    const before = await acks()
    await phone.post('/faults', { kind: 'retire_qr', qr })
    while (await acks() === before) await new Promise((resolve) => setTimeout(resolve, 50))
    if (renewed) await sidecar.notice('qr', (told) => told.qr !== qr)
    else assert.deepEqual(sidecar.notices.filter(({ method, params }) => method === 'qr' && params.qr !== qr), [])
    await sidecar.stop()
  })
}

test('a pairing code that WhatsApp retires links nothing, the one after it does; the phone\'s late answer to the first changes nothing', async () => {
  const database = new Database()
  const sidecar = start(database)
  await sidecar.connect(phone)
  await sidecar.notice('qr')
  const { owner } = await phone.get('/state')
  const number = owner.pn.split('@')[0]
  const acks = async () => (await phone.all('/receipts')).filter((/** @type {any} */ item) => item.kind === 'ack' && item.type === 'link_code_companion_reg')
  const before = (await acks()).length
  const { code: first } = await sidecar.call('pairing_code', { phone: number })
  await phone.post('/pair_code/refresh', {})
  assert.equal((await sidecar.notice('pairing_code_retired')).by_hand, false)
  await assert.rejects(phone.post('/pair_code', { code: first }), /retired/)
  const { code: second } = await sidecar.call('pairing_code', { phone: number })
  const child = (/** @type {string} */ tag, /** @type {number} */ length) => ({ tag, attrs: {}, content: { $bytes: Buffer.alloc(length, 7).toString('base64') } })
  const late = { tag: 'link_code_companion_reg', attrs: { stage: 'primary_hello' }, content: [child('link_code_pairing_wrapped_primary_ephemeral_pub', 80), child('primary_identity_pub', 32), child('link_code_pairing_ref', 16)] }
  const attrs = { from: 's.whatsapp.net', type: 'link_code_companion_reg', id: 'LATE' }
  await phone.post('/stanza', { node: { tag: 'notification', attrs, content: [late] } })
  await phone.post('/pair_code', { code: second })
  assert.equal((await sidecar.connection('close')).close.code, 515)
  const [retired, answer] = (await acks()).slice(before)
  assert.ok(retired, 'the retirement is acked')
  assert.equal(answer.id, 'LATE', 'and so is an answer to a code that is out no longer')
  await sidecar.stop()
})

test('a success before the pairing is no connection, and the QR stays good', async () => {
  const sidecar = start(new Database())
  await phone.post('/faults', { kind: 'success_before_pairing' })
  await sidecar.connect(phone)
  const { qr } = await sidecar.notice('qr')
  await phone.post('/scan', { qr })
  assert.equal((await sidecar.connection('close')).close.code, 515)
  assert.deepEqual(sidecar.notices.filter(({ params }) => params.state === 'open'), [])
  await sidecar.stop()
})

test('the following codes of a connection carry the new secret as well', async () => {
  const sidecar = start(new Database())
  await sidecar.connect(phone, { qr_timeout_ms: 400 })
  const { qr: first } = await sidecar.notice('qr')
  await phone.post('/faults', { kind: 'retire_qr', qr: first })
  const { qr: renewed } = await sidecar.notice('qr', ({ qr }) => qr.split(',').at(-2) !== first.split(',').at(-2))
  const { qr: next } = await sidecar.notice('qr', ({ qr }) => qr.split(',')[0] !== first.split(',')[0])
  assert.equal(next.split(',').at(-2), renewed.split(',').at(-2))
  await sidecar.stop()
})

test('a pairing code outlives the retirement of the QR beside it', async () => {
  const sidecar = start(new Database())
  await sidecar.connect(phone)
  const { qr } = await sidecar.notice('qr')
  const { owner } = await phone.get('/state')
  const { code } = await sidecar.call('pairing_code', { phone: owner.pn.split('@')[0] })
  await phone.post('/faults', { kind: 'retire_qr', qr })
  await sidecar.notice('qr')
  await phone.post('/pair_code', { code })
  assert.equal((await sidecar.connection('close')).close.code, 515)
  await sidecar.stop()
})
