import assert from 'node:assert/strict'
import { test } from 'node:test'
import { proto } from 'baileys'
import { rememberUnknown } from '../lib/baileys/lid_lookup.js'
import { socketOptions } from '../lib/baileys/options.js'

test('a number without a LID is asked for once in ten minutes; one that failed is asked for again at once', async () => {
  let clock = 0
  /** @type {string[][]} */
  const asked = []
  /** @type {any} */
  let answer = [{ pn: 'a', lid: 'A' }]
  const lookup = /** @type {any} */ (rememberUnknown(async (numbers) => { asked.push(numbers); return answer }, () => clock))
  assert.deepEqual(await lookup(['a', 'b']), [{ pn: 'a', lid: 'A' }])
  answer = []
  assert.deepEqual(await lookup(['b']), [])
  await lookup(['b', 'c'])
  answer = undefined
  await lookup(['d'])
  await lookup(['d'])
  clock = 10 * 60 * 1_000
  await lookup(['b'])
  assert.deepEqual(asked, [['a', 'b'], ['c'], ['d'], ['d'], ['b']])
})

test('a query that fails says "unknown for now": the message is read under its number', async () => {
  let clock = 0
  let asked = 0
  const lookup = /** @type {any} */ (rememberUnknown(async () => { asked += 1; throw new Error('429') }, () => clock))
  assert.deepEqual(await lookup(['a']), [])
  assert.deepEqual(await lookup(['a']), [])
  clock = 30_000
  assert.deepEqual(await lookup(['a']), [])
  assert.equal(asked, 2)
})

test('every kind of history but the full one is let through', () => {
  const { shouldSyncHistoryMessage } = socketOptions(/** @type {any} */ ({ browser: ['a', 'b', 'c'] }))
  const { HistorySyncType } = proto.HistorySync
  const refused = Object.entries(HistorySyncType)
    .filter(([name, syncType]) => Number.isNaN(Number(name)) && !shouldSyncHistoryMessage?.(/** @type {any} */ ({ syncType })))
    .map(([name]) => name)
  assert.deepEqual(refused, ['FULL'])
})
