import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Preview } from '../lib/log/preview.js'

/** @param {{busy?: () => boolean}} [options] */
function makePreview({ busy = () => false } = {}) {
  /** @type {number[][]} */
  const stalls = []
  const preview = new Preview({ busy, stalled: (...counts) => stalls.push(counts), patienceMs: 2_000 })
  return { preview, stalls }
}

test('an announced backlog of which nothing more comes is told once, with what came', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { preview, stalls } = makePreview()
  preview.announced(3)
  t.mock.timers.tick(1_500)
  preview.arrived()
  for (let i = 0; i < 19; i += 1) t.mock.timers.tick(100)
  assert.deepEqual(stalls, [])
  for (let i = 0; i < 60; i += 1) t.mock.timers.tick(100)
  assert.deepEqual(stalls, [[3, 1]])
})

test('a backlog that came as announced, one that has ended, and none, are no stalls', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { preview: whole, stalls: ofWhole } = makePreview()
  whole.announced(1)
  whole.arrived()
  const { preview: ended, stalls: ofEnded } = makePreview()
  ended.announced(5)
  ended.close()
  const { preview: none, stalls: ofNone } = makePreview()
  none.announced(0)
  const { preview: early, stalls: ofEarly } = makePreview()
  early.arrived()
  early.announced(1)
  for (let i = 0; i < 100; i += 1) t.mock.timers.tick(100)
  assert.deepEqual([ofWhole, ofEnded, ofNone, ofEarly], [[], [], [], []])
})

test('time in which our pause or the database holds the socket does not count', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  let busy = true
  const { preview, stalls } = makePreview({ busy: () => busy })
  preview.announced(3)
  for (let i = 0; i < 100; i += 1) t.mock.timers.tick(100)
  assert.deepEqual(stalls, [])
  busy = false
  for (let i = 0; i < 20; i += 1) t.mock.timers.tick(100)
  assert.deepEqual(stalls, [[3, 0]])
})
