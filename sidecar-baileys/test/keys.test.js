import assert from 'node:assert/strict'
import { test } from 'node:test'
import { KeyStore } from '../lib/log/keys.js'
import { revive, reviveCreds, serialise } from '../lib/baileys/serial.js'

/** @param {Record<string, string>} database */
function makeStore(database = {}) {
  /** @type {string[][]} */
  const reads = []
  /** @type {any[]} */
  const journal = []
  /** @type {Error[]} */
  const failures = []
  let broken = false
  let beforeAnswer = async () => {}
  const store = new KeyStore({
    codec: { serialise, revive },
    read: async (type, ids) => {
      reads.push(ids)
      await beforeAnswer()
      if (broken) throw new Error('the database does not answer')
      return Object.fromEntries(ids.filter((id) => `${type}/${id}` in database).map((id) => [id, database[`${type}/${id}`]]))
    },
    journal: (changes) => journal.push(changes),
    onReadFailure: (error) => failures.push(error),
  })
  return { store, reads, journal, failures, breakIt: () => { broken = true }, before: (/** @type {() => Promise<void>} */ f) => { beforeAnswer = f } }
}

test('a pending write and a pending deletion win over the database', async () => {
  const { store } = makeStore({ 'session/a': '"old"', 'session/b': '"old"' })
  await store.set({ session: { a: 'new', b: null } })
  assert.deepEqual(await store.get('session', ['a', 'b', 'c']), { a: 'new' })
})

test('a write that comes during a read wins over what the read brings', async () => {
  const { store, before } = makeStore({ 'session/a': '"old"' })
  before(async () => { await store.set({ session: { a: 'new' } }) })
  assert.deepEqual(await store.get('session', ['a']), { a: 'new' })
})

test('what is durable stays readable without asking again', async () => {
  const { store, reads, journal } = makeStore()
  await store.set({ session: { a: 'x' } })
  store.durable(journal.length)
  assert.deepEqual(await store.get('session', ['a']), { a: 'x' })
  assert.deepEqual(reads, [])
})

test('an older commit does not evict a newer pending value', async () => {
  const { store } = makeStore({ 'session/a': '"from the database"' })
  await store.set({ session: { a: 'first' } })
  await store.set({ session: { a: 'second' } })
  store.durable(1)
  assert.deepEqual(await store.get('session', ['a']), { a: 'second' })
})

test('a failed read is reported before it is thrown: Baileys would take it for "no session"', async () => {
  const { store, failures, breakIt } = makeStore()
  breakIt()
  await assert.rejects(store.get('session', ['a']), /does not answer/)
  assert.equal(failures.length, 1)
})

test('a torn value is a failed read as well, and is not quoted', async () => {
  const { store, failures } = makeStore({ 'session/a': '{"_sessions":' })
  await assert.rejects(store.get('session', ['a']), { message: 'the stored session is torn' })
  assert.equal(failures.length, 1)
})

test('an id that no database takes is not asked for and not accepted: a sender could end every connection with it', async () => {
  const { store, reads, journal, failures } = makeStore()
  for (const id of ['a\0::222::0', '\ud800::222::0', 'a'.repeat(3_000)]) {
    assert.deepEqual(await store.get('sender-key', [id, 'good']), {})
    await assert.rejects(store.set({ session: { good: 'x' }, 'sender-key': { [id]: Buffer.from('[]') } }), RangeError)
  }
  assert.deepEqual(reads, [['good']])
  assert.deepEqual([journal, failures], [[], []])
  assert.deepEqual(await store.get('session', ['good']), {}, 'a write is whole or nothing')
})

test('what is read may be changed by the reader without changing the store', async () => {
  const { store } = makeStore({ 'device-list/a': '["0"]' })
  const first = await store.get('device-list', ['a'])
  first.a.push('7')
  assert.deepEqual(await store.get('device-list', ['a']), { a: ['0'] })
})

test('buffers survive, and the seeds of skipped sender-key messages come back in a form that Baileys revives', () => {
  const record = [{ senderKeyId: 1, senderMessageKeys: [{ iteration: 3, seed: Buffer.from([1, 2, 3]) }] }]
  const asBaileysStores = Buffer.from(JSON.stringify(record), 'utf8')
  assert.match(asBaileysStores.toString(), /"data":\[1,2,3\]/)
  const back = revive('sender-key', serialise('sender-key', asBaileysStores))
  assert.ok(Buffer.isBuffer(back))
  assert.deepEqual(JSON.parse(back.toString())[0].senderMessageKeys[0].seed, { type: 'Buffer', data: Buffer.from([1, 2, 3]).toString('base64') })
})

test('an app-state key comes back with its bytes', () => {
  const key = { keyData: Buffer.from([9, 8, 7]), timestamp: 5 }
  const back = revive('app-state-sync-key', serialise('app-state-sync-key', revive('app-state-sync-key', JSON.stringify({ keyData: key.keyData.toString('base64'), timestamp: '5' }))))
  assert.deepEqual(Buffer.from(back.keyData), key.keyData)
})

test('torn credentials are an error, never "none"', () => {
  assert.throws(() => reviveCreds('{"noiseKey":'), SyntaxError)
  assert.throws(() => reviveCreds('{"noiseKey":{}}'), /lack signedIdentityKey/)
})
