/** When the sidecar gives memory back. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Rest } from '../lib/rest.js'

test('memory is given back once in each quiet time', () => {
  let now = 0
  const collected = /** @type {[number, any][]} */ ([])
  const rest = new Rest((how) => collected.push([now, how]), () => now)
  const look = (/** @type {number} */ at, /** @type {number} */ stanzas) => { now = at; rest.look(stanzas) }
  for (let at = 0; at <= 60_000; at += 5_000) look(at, 0)
  assert.deepEqual(collected.map(([at]) => at), [20_000])
  look(65_000, 3)
  look(84_999, 3)
  look(85_000, 3)
  look(200_000, 3)
  assert.deepEqual(collected.map(([at]) => at), [20_000, 85_000])
  assert.equal(collected[0][1].flavor, 'last-resort')
})

test('a message every few seconds puts it off', () => {
  let now = 0
  const rest = new Rest(() => assert.fail('somebody waits'), () => now)
  for (let stanzas = 0; stanzas < 20; stanzas++, now += 10_000) rest.look(stanzas)
})

test('without the right to collect nothing is done', () => {
  let now = 0
  const rest = new Rest(undefined, () => now)
  rest.look(0)
  now = 30_000
  rest.look(0)
})
