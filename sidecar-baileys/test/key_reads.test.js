import assert from 'node:assert/strict'
import { test } from 'node:test'
import { KEYS_MAX, KeyReads } from '../lib/log/key_reads.js'

const turn = () => new Promise(setImmediate)

/** A database that answers when it is told to. */
function makeDatabase() {
  /** @type {{type: string, ids: string[], answer: () => void, fail: (error: Error) => void}[]} */
  const calls = []
  const reads = new KeyReads((type, ids) => new Promise((resolve, reject) => {
    calls.push({ type, ids, answer: () => resolve(Object.fromEntries(ids.map((id) => [id, `${type}/${id}`]))), fail: reject })
  }))
  return { calls, reads }
}

test('what is asked for in one turn is one call for each type', async () => {
  const { calls, reads } = makeDatabase()
  const asked = ['a', 'b', 'a'].map((id) => reads.get('session', [id]))
  const other = reads.get('sender-key', ['a', 'c'])
  await turn()
  assert.deepEqual(calls.map(({ type, ids }) => [type, ids]), [['session', ['a', 'b']], ['sender-key', ['a', 'c']]])
  for (const { answer } of calls) answer()
  assert.deepEqual((await Promise.all(asked)).map((found) => found.a), ['session/a', 'session/a', 'session/a'])
  assert.equal((await other).c, 'sender-key/c')
})

test('a hundred and fifty that ask one after another need few calls', async () => {
  const { calls, reads } = makeDatabase()
  let done = 0
  for (let n = 0; n < 150; n++) {
    void (async () => {
      for (const type of ['lid-mapping', 'device-list', 'session', 'identity-key', 'sender-key']) {
        await reads.get(type, [`person ${n}`])
      }
      done += 1
    })()
    if (n % 10 === 0) await turn()
  }
  for (let n = 0; done < 150; n++) {
    calls[n]?.answer()
    await turn()
    assert.ok(n < 1_000)
  }
  assert.ok(calls.length < 30, `${calls.length} calls`)
})

test('a call that fails fails for those who asked in it, and the next one goes on', async () => {
  const { calls, reads } = makeDatabase()
  const lost = assert.rejects(reads.get('session', ['a']), /no answer/)
  await turn()
  calls[0].fail(new Error('no answer'))
  await lost
  const found = reads.get('session', ['a'])
  await turn()
  calls[1].answer()
  assert.equal((await found).a, 'session/a')
})

test('a call never asks for more keys than the answer may hold, however many are wanted at once', async () => {
  const { calls, reads } = makeDatabase()
  const ids = Array.from({ length: 3 * KEYS_MAX + 7 }, (_, n) => `group::person ${n}`)
  const together = reads.get('sender-key', ids)
  const single = ids.map((id) => reads.get('sender-key', [`other ${id}`]))
  const answered = Promise.all([together, ...single])
  let done = false
  void answered.then(() => { done = true })
  for (let turns = 0; !done; turns++) {
    for (const { answer } of calls) answer()
    await turn()
    assert.ok(turns < 1_000)
  }
  assert.equal(Math.max(...calls.map((call) => call.ids.length)), KEYS_MAX)
  const found = await together
  assert.deepEqual(ids.filter((id) => found[id] !== `sender-key/${id}`), [])
})
