/** The counts of stanzas that a connection leaves in the log. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Traffic } from '../lib/baileys/traffic.js'

/** @param {string} tag @param {Record<string, string>} [attrs] */
const node = (tag, attrs = {}) => ({ tag, attrs })

test('stanzas are counted by tag, and notifications by type', () => {
  const traffic = new Traffic()
  traffic.note(Buffer.from('of the handshake'))
  for (const one of [node('message'), node('message'), node('notification', { type: 'w:gp2' }), node('notification')]) traffic.note(one)
  assert.deepEqual(traffic.counts, [['message', 2], ['notification w:gp2', 1], ['notification untyped', 1]])
})

test('what is no plain word, and what comes after sixty kinds, is only counted', () => {
  const traffic = new Traffic()
  traffic.note(node('notification', { type: 'hello there' }))
  for (let i = 0; i < 100; i++) traffic.note(node(`tag${i}`))
  assert.equal(traffic.counts.length, 60)
  assert.deepEqual(traffic.counts[0], ['other', 42])
})
