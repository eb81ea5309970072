import assert from 'node:assert/strict'
import { test } from 'node:test'
import { proto, writeRandomPadMax16 } from 'baileys'
import { Stanza } from '../lib/baileys/stanza.js'

const CREDS = { me: { id: '111:5@s.whatsapp.net', lid: '999:5@lid' } }

/** @param {import('baileys').proto.IMessage} message @returns {Uint8Array} padded, as it is encrypted */
const padded = (message) => /** @type {any} */ (writeRandomPadMax16(proto.Message.encode(message).finish()))

/** @param {any[]} content @param {Record<string, string>} [attrs] */
const arrive = (content, attrs = {}) =>
  new Stanza({ tag: 'message', attrs: { id: 'A1', from: '1@g.us', participant: '222@lid', t: '1790000000', ...attrs }, content }, CREDS, 1, null)

/** A stanza of one part that was decrypted. @param {import('baileys').proto.IMessage} message @param {Record<string, string>} [attrs] @param {Record<string, string>} [encAttrs] */
function received(message, attrs = {}, encAttrs = {}) {
  const ciphertext = Buffer.from('ciphertext')
  const stanza = arrive([{ tag: 'enc', attrs: { type: 'msg', v: '2', ...encAttrs }, content: ciphertext }], attrs)
  stanza.decrypted(ciphertext, padded(message))
  return /** @type {any} */ (stanza.toItem())
}

/** What a phone sends when it is asked for a message again; anybody can write the same. */
const answer = {
  protocolMessage: {
    type: proto.Message.ProtocolMessage.Type.PEER_DATA_OPERATION_REQUEST_RESPONSE_MESSAGE,
    peerDataOperationRequestResponseMessage: {
      peerDataOperationResult: [{
        placeholderMessageResendResponse: {
          webMessageInfoBytes: proto.WebMessageInfo.encode({
            key: { remoteJid: '1@g.us', id: 'B2', fromMe: false, participant: '333@lid' }, message: { conversation: 'never said' }, messageTimestamp: 1_790_000_000,
          }).finish(),
        },
      }],
    },
  },
}

test('a message that the own phone delivers anew is an event', () => {
  const [event] = received(answer, { from: '999@lid', category: 'peer' }).events
  assert.deepEqual([event.type, event.key.participant, event.content.conversation], ['resend', '333@lid', 'never said'])
})

test('a stranger who claims to deliver a message anew is not believed: it would be stored as somebody else\'s', () => {
  assert.deepEqual(received(answer).events, [])
  assert.deepEqual(received(answer, { from: '1@g.us', participant: '222@lid' }).events, [])
})

test('of a chat that is never stored the worker gets no content, only what recognises and counts the stanza', () => {
  const direct = { from: '222@lid', participant: '' }
  for (const attrs of [direct, { from: 'status@broadcast', participant: '222@lid' }]) {
    const { stanza, bytes } = received({ conversation: 'private '.repeat(1_000) }, attrs)
    assert.deepEqual([stanza.content, stanza.failure, stanza.hashes.length], [null, null, 1])
    assert.ok(bytes < 2_000)
  }
  const own = received({ conversation: 'x' }, { from: '999@lid', recipient: '222@lid', participant: '' }).stanza
  assert.deepEqual(own.content, { conversation: 'x' })
  assert.equal(received({ conversation: 'x' }).stanza.content.conversation, 'x')
})

test('a count of retries is a small whole number, whatever the sender writes', () => {
  const count = (/** @type {string} */ text) => received({ conversation: 'x' }, {}, { count: text }).stanza.retry_count
  assert.equal(count('2'), 2)
  for (const text of ['1.5', '-1', '1e300', 'Infinity', 'NaN', '', '9'.repeat(30)]) {
    const given = count(text)
    assert.ok(Number.isInteger(given) && given >= 0 && given <= 1_000, `${text} → ${given}`)
  }
})

test('content that would not fit into a line of the wire is left out and named, and the rest of the stanza is kept', () => {
  // Two ways to grow on the way to JSON: six bytes for a control character, a long name for one byte of an enum.
  const controls = { conversation: '\u0001'.repeat(6_000_000) }
  const names = { messageContextInfo: { botMetadata: { capabilityMetadata: { capabilities: Array(1_500_000).fill(1) } } }, conversation: 'x' }
  for (const message of [controls, names]) {
    const item = received(message)
    assert.ok(JSON.stringify(item.stanza).length < 10_000)
    assert.equal(item.stanza.content, null)
    assert.match(item.stanza.failure, /too large/)
    assert.equal(item.stanza.hashes.length, 1)
  }
  assert.equal(received({ conversation: 'x'.repeat(5_000_000) }).stanza.content.conversation.length, 5_000_000)
})

test('a key share in a stanza that came in the clear is not waited for: no decryption says when it is stored', () => {
  const share = { groupId: '1@g.us', axolotlSenderKeyDistributionMessage: Buffer.from([1]) }
  const plain = proto.Message.encode({ conversation: 'news', senderKeyDistributionMessage: share }).finish()
  const stanza = arrive([{ tag: 'plaintext', attrs: {}, content: plain }], { from: '1@newsletter' })
  assert.equal(stanza.complete, true)
})

test('what was given up stays complete, whatever is decrypted of it later', () => {
  const ciphertext = Buffer.from('ciphertext')
  const stanza = arrive([{ tag: 'enc', attrs: { type: 'msg' }, content: ciphertext }])
  stanza.abandon('given up')
  stanza.decrypted(ciphertext, padded({ conversation: 'late' }))
  assert.equal(stanza.complete, true)
})
