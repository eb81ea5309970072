/** When the sidecar gives memory back. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { IdleMemory } from '../lib/idle_memory.js'

const MB = 1_000_000

/** A sidecar with 40 MB after each collection. */
function made() {
  const it = {
    now: 0, rss: 65 * MB, collected: /** @type {number[]} */ ([]), how: /** @type {any[]} */ ([]),
    look: (/** @type {number} */ at, /** @type {number} */ stanzas, waiting = 0) => { it.now = at; idleMemory.check(stanzas, waiting) },
  }
  const idleMemory = new IdleMemory((how) => { it.collected.push(it.now); it.how.push(how); it.rss = 40 * MB }, () => it.now, () => it.rss)
  return it
}

test('memory is given back once in each quiet time', () => {
  const it = made()
  for (let at = 0; at <= 60_000; at += 5_000) it.look(at, 0)
  assert.deepEqual(it.collected, [20_000])
  it.look(700_000, 3)
  it.look(719_999, 3)
  it.look(720_000, 3)
  it.look(2_000_000, 3)
  assert.deepEqual(it.collected, [20_000, 720_000])
  assert.equal(it.how[0].flavor, 'last-resort')
})

test('a message every few seconds puts it off', () => {
  const it = made()
  for (let stanzas = 0; stanzas < 20; stanzas++) it.look(stanzas * 10_000, stanzas)
  assert.deepEqual(it.collected, [])
})

test('a message each half minute costs a collection in ten minutes, not one each', () => {
  const it = made()
  for (let at = 0; at <= 1_800_000; at += 5_000) {
    if (at % 30_000 === 0) it.rss = Math.min(it.rss + MB, 55 * MB)
    it.look(at, Math.floor(at / 30_000))
  }
  assert.deepEqual(it.collected, [20_000, 620_000, 1_220_000])
})

test('what a burst leaves is given back in the next quiet time, however soon', () => {
  const it = made()
  it.look(0, 0)
  it.look(20_000, 0)
  it.rss = 110 * MB
  it.look(30_000, 2_000)
  it.look(50_000, 2_000)
  assert.deepEqual(it.collected, [20_000, 50_000])
})

test('a quiet time that began too soon after the last collection has its own when that is ten minutes ago', () => {
  const it = made()
  for (let at = 0; at <= 900_000; at += 5_000) it.look(at, at < 60_000 ? 0 : 1)
  assert.deepEqual(it.collected, [20_000, 620_000])
})

test('while anything waits to be durable there is no quiet time', () => {
  const it = made()
  for (let at = 0; at <= 60_000; at += 5_000) it.look(at, 1, 1)
  assert.deepEqual(it.collected, [])
  it.look(79_999, 1)
  it.look(80_000, 1)
  assert.deepEqual(it.collected, [80_000])
})

test('without the right to collect nothing is done', () => {
  let now = 0
  const idleMemory = new IdleMemory(undefined, () => now)
  idleMemory.check(0, 0)
  now = 30_000
  idleMemory.check(0, 0)
})
