import assert from 'node:assert/strict'
import { test } from 'node:test'
import { toNotice } from '../lib/baileys/notice.js'

const node = (/** @type {string} */ tag, /** @type {Record<string, string>} */ attrs = {}, /** @type {any} */ content = undefined) =>
  ({ tag, attrs, content })
const told = (/** @type {any[]} */ content, /** @type {Record<string, string>} */ attrs = {}) =>
  /** @type {any} */ (toNotice(node('notification', { from: '1@g.us', type: 'w:gp2', id: '7', t: '9', ...attrs }, content), (jid) => jid === '5@lid'))

test('every child of a notification is told, with its attributes, texts and children', () => {
  const event = told([
    node('ephemeral', { expiration: '604800' }),
    node('description', {}, [node('body', {}, Buffer.from('größer'))]),
  ], { participant: '2@lid', participant_pn: '3@s.whatsapp.net' })
  assert.deepEqual(event, {
    type: 'notice',
    key: { remoteJid: '1@g.us', id: '7', fromMe: false, participant: '2@lid', participantAlt: '3@s.whatsapp.net' },
    notices: [
      { tag: 'ephemeral', attrs: { expiration: '604800' }, text: null, children: [] },
      { tag: 'description', attrs: {}, text: null, children: [{ tag: 'body', attrs: {}, text: 'größer', children: [] }] },
    ],
    t: '9',
  })
})

test('what the account itself did is said so, and nobody is named who is not', () => {
  assert.equal(told([], { participant: '5@lid' }).key.fromMe, true)
  assert.deepEqual(told([]).key, { remoteJid: '1@g.us', id: '7', fromMe: false })
})

test('a notification is read to a bounded depth, breadth and length', () => {
  let deep = node('a')
  for (let n = 0; n < 1_000; n++) deep = node('a', {}, [deep])
  const wide = node('b', {}, Array.from({ length: 5_000 }, () => node('c', {}, 'x'.repeat(20_000))))
  const text = JSON.stringify(told([deep, wide]))
  assert.equal(text.split('"tag":"a"').length, 7)
  assert.equal(text.split('"tag":"c"').length, 1_025)
  assert.ok(text.length < 1_024 * 9_000)
})
