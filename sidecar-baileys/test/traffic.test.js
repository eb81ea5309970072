/** The counts of stanzas that a connection leaves in the log. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { binaryNodeToString, buildAckStanza } from 'baileys'
import { Traffic } from '../lib/baileys/traffic.js'

/** @param {string} tag @param {Record<string, string>} [attrs] */
const node = (tag, attrs = {}) => ({ tag, attrs })

test('stanzas are counted by tag, and notifications by type', () => {
  const traffic = new Traffic()
  traffic.note(Buffer.from('of the handshake'))
  for (const one of [node('message'), node('message'), node('notification', { type: 'w:gp2' }), node('notification')]) traffic.note(one)
  assert.deepEqual(traffic.counts.map(({ type, count }) => [type, count]),
    [['message', 2], ['notification w:gp2', 1], ['notification untyped', 1]])
})

test('what is no plain word, and what comes after sixty kinds, is only counted', () => {
  const traffic = new Traffic()
  traffic.note(node('notification', { type: 'hello there' }))
  for (let i = 0; i < 100; i++) traffic.note(node(`tag${i}`))
  assert.equal(traffic.counts.length, 60)
  assert.deepEqual(traffic.counts[0], { type: 'other', count: 42, unanswered: 0 })
})

const FROM = { from: '1@g.us' }
/** What Baileys logs of a stanza that leaves. @param {import('baileys').BinaryNode} answer */
const written = (answer) => String(binaryNodeToString(answer))

for (const [what, incoming, answer, left] of /** @type {[string, any, any, number][]} */ ([
  ['a message without an answer', node('message', { id: 'A', ...FROM }), null, 1],
  ['a receipt', node('message', { id: 'A', ...FROM }), node('receipt', { id: 'A', to: '1@g.us' }), 0],
  ['a request for another copy', node('message', { id: 'A', ...FROM }), node('receipt', { id: 'A', type: 'retry' }), 1],
  ['a receipt for several', node('message', { id: 'B', ...FROM }),
    { ...node('receipt', { id: 'A' }), content: [{ ...node('list'), content: [node('item', { id: 'B' })] }] }, 0],
  ['a receipt for another', node('message', { id: 'B', ...FROM }), node('receipt', { id: 'A' }), 1],
  ['an ack', node('status', { id: 'A', ...FROM }), buildAckStanza(node('status', { id: 'A', ...FROM })), 0],
  ['an ack of another class', node('status', { id: 'A', ...FROM }), buildAckStanza(node('call', { id: 'A', ...FROM })), 1],
  ['a nack', node('lamp', { id: 'A', ...FROM }), buildAckStanza(node('lamp', { id: 'A', ...FROM }), 488), 0],
  ["the server's question", node('iq', { id: 'A', type: 'get' }), node('iq', { id: 'B', type: 'result' }), 1],
  ['a result', node('iq', { id: 'A', type: 'get' }), node('iq', { id: 'A', type: 'result' }), 0],
  ["our own question of the same id", node('iq', { id: 'A', type: 'set' }), node('iq', { id: 'A', type: 'get' }), 1],
  ["the server's answer", node('iq', { id: 'A', type: 'result' }), null, 0],
  ['what has no id', node('ib'), null, 0],
])) {
  test(`answers: ${what}`, () => {
    const traffic = new Traffic()
    traffic.note(incoming)
    if (answer) traffic.sent(written(answer))
    assert.equal(traffic.counts[0].unanswered, left)
  })
}

test('a copy that comes twice is answered once, and ten thousand stanzas are remembered', () => {
  const traffic = new Traffic()
  for (const id of ['A', 'A']) traffic.note(node('message', { id }))
  traffic.sent(written(node('receipt', { id: 'A' })))
  assert.equal(traffic.counts[0].unanswered, 0)
  for (let i = 0; i < 10_100; i++) traffic.note(node('message', { id: `${i}` }))
  assert.equal(traffic.counts[0].unanswered, 10_000)
})
