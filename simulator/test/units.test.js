import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { Curve, proto } from 'baileys'
// @ts-ignore no types
import curve from 'libsignal/src/curve.js'
import { makeNoiseChain } from '../lib/certificates.js'
import { makeSigningKey, withTypePrefix } from '../lib/curve.js'
import { Device, spoil, padMessage } from '../lib/device.js'
import { frame, FrameReader } from '../lib/framing.js'
import { OfflineQueue } from '../lib/queue.js'
import { bytesOf, children, decode, encode, node } from '../lib/stanza.js'

test("our native signatures are good XEdDSA to libsignal's own verifier, and only for what was signed", () => {
  for (let i = 0; i < 20; i++) {
    const key = makeSigningKey()
    const message = randomBytes(1 + i * 7)
    const signature = key.sign(message)
    assert.equal(curve.verifySignature(withTypePrefix(key.public), message, signature), true)
    assert.equal(curve.verifySignature(withTypePrefix(key.public), Buffer.concat([message, Buffer.from('!')]), signature), false)
    assert.equal(curve.verifySignature(withTypePrefix(makeSigningKey().public), message, signature), false)
  }
})

test('a key agrees like any X25519 key', () => {
  const [a, b] = [makeSigningKey(), Curve.generateKeyPair()]
  assert.deepEqual(Curve.sharedKey(a.private, b.public), Curve.sharedKey(b.private, a.public))
})

test('the certificate chain holds for its root and for no other', () => {
  const [root, other] = [makeSigningKey(), makeSigningKey()]
  const staticKey = randomBytes(32)
  const { intermediate, leaf } = proto.CertChain.decode(makeNoiseChain(root, staticKey))
  const { Details } = proto.CertChain.NoiseCertificate
  const { key, issuerSerial } = Details.decode(intermediate?.details ?? Buffer.alloc(0))
  const verify = (/** @type {Uint8Array} */ by, /** @type {any} */ cert) => curve.verifySignature(withTypePrefix(by), Buffer.from(cert.details), Buffer.from(cert.signature))
  assert.equal(issuerSerial, 0)
  assert.deepEqual(Buffer.from(Details.decode(leaf?.details ?? Buffer.alloc(0)).key ?? []), staticKey)
  assert.deepEqual([verify(root.public, intermediate), verify(other.public, intermediate), verify(key ?? Buffer.alloc(0), leaf)], [true, false, true])
})

test('the chains to refuse: each breaks one rule and keeps the others', () => {
  const { Details } = proto.CertChain.NoiseCertificate
  const [root, staticKey, now] = [makeSigningKey(), randomBytes(32), Date.now() / 1000]
  /** @param {string} [fault] - which rules hold */
  const rules = (fault) => {
    const { intermediate, leaf } = proto.CertChain.decode(makeNoiseChain(root, staticKey, fault))
    const [i, l] = [Details.decode(intermediate?.details ?? Buffer.alloc(0)), Details.decode(leaf?.details ?? Buffer.alloc(0))]
    const signed = curve.verifySignature(withTypePrefix(i.key ?? Buffer.alloc(0)), Buffer.from(leaf?.details ?? []), Buffer.from(leaf?.signature ?? []))
    return { signed, serial: l.issuerSerial === i.serial, begun: Number(l.notBefore) < now, lasts: Number(l.notAfter) > now, key: staticKey.equals(l.key ?? Buffer.alloc(0)) }
  }
  const good = { signed: true, serial: true, begun: true, lasts: true, key: true }
  assert.deepEqual(rules(), good)
  assert.deepEqual(rules('expired_chain'), { ...good, lasts: false })
  assert.deepEqual(rules('future_chain'), { ...good, begun: false })
  assert.deepEqual(rules('foreign_leaf'), { ...good, signed: false })
  assert.deepEqual(rules('wrong_serial'), { ...good, serial: false })
})

test('frames are found whatever the chunks', () => {
  const bodies = [randomBytes(3), randomBytes(3000), Buffer.alloc(0), randomBytes(12)]
  const stream = Buffer.concat([Buffer.from('4544000100000a', 'hex'), randomBytes(10), Buffer.from([87, 65, 6, 3]), ...bodies.map(frame)])
  for (const size of [1, 7, 4096, stream.length]) {
    const reader = new FrameReader()
    const got = []
    for (let at = 0; at < stream.length; at += size) for (const body of reader.read(stream.subarray(at, at + size))) got.push(Buffer.from(body))
    assert.deepEqual(got, bodies)
    assert.deepEqual(reader.intro, Buffer.from([87, 65, 6, 3]))
  }
})

test('a client of another dictionary is refused by name', () => {
  assert.throws(() => [...new FrameReader().read(Buffer.from([87, 65, 6, 2, 0, 0, 0]))], /dictionary 2/)
})

test('stanzas survive the wire, whatever the size of their contents', () => {
  const sizes = [0, 1, 255, 256, 20_000, 3_000_000, 16_384]
  const stanza = node('message', { from: '12@g.us', id: 'A', participant: '7:3@lid' }, sizes.map((size) => node('enc', { v: '2' }, randomBytes(size))))
  const back = decode(encode(stanza))
  assert.deepEqual(back.attrs, stanza.attrs)
  assert.deepEqual(children(back).map(bytesOf), children(stanza).map(bytesOf))
})

test('two devices talk both ways; a spoiled ciphertext does not open', async () => {
  const [ana, ben] = [new Device(0), new Device(0)]
  await ana.startSession(1, ben.bundle())
  const first = await ana.encrypt(1, padMessage({ conversation: 'hi' }))
  assert.equal(first.type, 'pkmsg')
  await assert.rejects(ben.decrypt(1, first.type, spoil(first.type, first.ciphertext)))
  await ben.decrypt(1, first.type, first.ciphertext)
  const answer = await ben.encrypt(1, padMessage({ conversation: 'ho' }))
  assert.equal(answer.type, 'msg')
  const padded = await ana.decrypt(1, answer.type, answer.ciphertext)
  assert.equal(proto.Message.decode(padded.subarray(0, -(padded.at(-1) ?? 0))).conversation, 'ho')
})

const G = '1@g.us'
/** @param {string} id @param {string} participant */
const message = (id, participant) => node('message', { id, from: G, participant })
/** @param {string} id @param {string} participant @param {Record<string, string>} [more] */
const receipt = (id, participant, more) => node('receipt', { id, to: G, participant, ...more })
/** @param {string} id @param {string} participant */
const nack = (id, participant) => node('ack', { class: 'message', id, to: G, participant, error: '500' })

/** @param {import('../lib/stanza.js').Node[]} stanzas */
function queueOf(...stanzas) {
  const queue = new OfflineQueue()
  for (const stanza of stanzas) queue.add(stanza).sent = true
  return queue
}

test('a receipt takes one stanza: of this sender, and only if it was sent', () => {
  const queue = queueOf(message('1', 'a@lid'), message('1', 'b@lid'))
  queue.add(message('2', 'a@lid'))
  assert.equal(queue.settle(receipt('1', 'b@lid')), true)
  assert.equal(queue.settle(receipt('1', 'b@lid')), false)
  assert.equal(queue.settle(receipt('2', 'a@lid')), false)
  assert.deepEqual([...queue.entries()].map(({ node: { attrs } }) => [attrs.id, attrs.participant]), [['1', 'a@lid'], ['2', 'a@lid']])
})

test('retry, then nack: the bad copy leaves, the good copy stays until its own receipt', () => {
  const queue = queueOf(message('1', 'a@lid'))
  queue.markFailed(receipt('1', 'a@lid', { type: 'retry' }))
  queue.add(message('1', 'a@lid')).sent = true
  queue.settleNack(nack('1', 'a@lid'))
  assert.equal(queue.size, 1)
  assert.equal([...queue.entries()][0]?.failed, false)
  queue.settle(receipt('1', 'a@lid'))
  assert.equal(queue.size, 0)
})

test('a nack that only repeats a retry never takes the good copy, even when the bad one has left', () => {
  const queue = queueOf(message('1', 'a@lid'))
  queue.settle(receipt('1', 'a@lid')) // the first of two identical stanzas was read, the second one could not be
  queue.markFailed(receipt('1', 'a@lid', { type: 'retry' }))
  queue.add(message('1', 'a@lid')).sent = true
  queue.settleNack(nack('1', 'a@lid'))
  assert.equal(queue.size, 1)
})

test('a nack without a retry ends the stanza', () => {
  const queue = queueOf(message('1', 'a@lid'))
  queue.settleNack(nack('1', 'a@lid'))
  assert.equal(queue.size, 0)
})
