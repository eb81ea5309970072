/** What strangers nest: handed on to a depth that the worker's parser bears. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { proto } from 'baileys'
import { MAX_DEPTH, messageToJson } from '../lib/baileys/serial.js'

/** @param {number} depth */
function nested(depth) {
  /** @type {any} */
  let message = { conversation: 'the core' }
  for (let i = 0; i < depth; i++) message = { ephemeralMessage: { message } }
  return proto.Message.fromObject(message)
}

/** @param {any} value @returns {number} */
const depthOf = (value) =>
  value === null || typeof value !== 'object' ? 0 : 1 + Math.max(0, ...Object.values(value).map(depthOf))

test('what nests deeper than the bound is cut there, at either kind of level', () => {
  assert.equal(depthOf(messageToJson(nested(1_000))), MAX_DEPTH)
  const album = proto.Message.fromObject({ interactiveMessage: { carouselMessage: { cards: [{ body: { text: 'kept' } }] } } })
  assert.match(JSON.stringify(messageToJson(album)), /kept/)
})

test('what is within the bound is whole', () => {
  assert.match(JSON.stringify(messageToJson(nested(MAX_DEPTH / 2 - 1))), /the core/)
})
