import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { installStrictSignatures, makeStrict, SignatureError, verifyNative } from '../lib/baileys/curve.js'

const require = createRequire(import.meta.url)
const curve = require('libsignal/src/curve.js')
const original = curve.verifySignature

test('the native verifier agrees with libsignal\'s on generated keys, valid and tampered', () => {
  for (let i = 0; i < 12; i += 1) {
    const { pubKey, privKey } = curve.generateKeyPair()
    const message = randomBytes(1 + i * 7)
    const signature = curve.calculateSignature(privKey, message)
    const flip = (/** @type {Uint8Array} */ bytes, /** @type {number} */ at) => { const copy = Buffer.from(bytes); copy[at % copy.length] ^= 1; return copy }
    for (const [what, key, text, mark] of /** @type {[string, Uint8Array, Uint8Array, Uint8Array][]} */ ([
      ['as signed', pubKey, message, signature],
      ['another message', pubKey, flip(message, i), signature],
      ['another signature', pubKey, message, flip(signature, i * 5)],
      ['the sign bit turned', pubKey, message, (() => { const copy = Buffer.from(signature); copy[63] ^= 0x80; return copy })()],
      ['another key', curve.generateKeyPair().pubKey, message, signature],
    ])) assert.equal(verifyNative(key, text, mark), original(key, text, mark), `${what}, round ${i}`)
    assert.equal(verifyNative(pubKey, message, signature), true)
  }
})

test('a key or signature of the wrong size is a false signature, not a crash', () => {
  const { pubKey, privKey } = curve.generateKeyPair()
  const signature = curve.calculateSignature(privKey, Buffer.from('x'))
  assert.equal(verifyNative(pubKey.subarray(0, 20), Buffer.from('x'), signature), false)
  assert.equal(verifyNative(pubKey, Buffer.from('x'), signature.subarray(0, 63)), false)
  assert.equal(verifyNative(Buffer.alloc(32, 0xff), Buffer.from('x'), signature), false)
})

test('a strict verifier throws where the original returns false, and leaves out what its caller switched off', () => {
  const strict = makeStrict(() => false)
  assert.throws(() => strict(Buffer.alloc(33), Buffer.from('x'), Buffer.alloc(64)), SignatureError)
  assert.equal(strict(Buffer.alloc(33), Buffer.from('x'), Buffer.alloc(64), true), true)
})

test('the pinned libsignal is the one that was read, and its export is replaced', () => {
  assert.deepEqual(installStrictSignatures(), { native: true, reason: '' })
  const { pubKey, privKey } = curve.generateKeyPair()
  const signature = curve.calculateSignature(privKey, Buffer.from('signed'))
  assert.equal(curve.verifySignature(pubKey, Buffer.from('signed'), signature), true)
  assert.throws(() => curve.verifySignature(pubKey, Buffer.from('forged'), signature), SignatureError)
})
