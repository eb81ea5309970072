import assert from 'node:assert/strict'
import crypto, { createCipheriv, createDecipheriv, createHmac } from 'node:crypto'
import { createRequire } from 'node:module'
import { test } from 'node:test'
import { installKeyObjects } from '../lib/baileys/key_objects.js'

const key = Buffer.alloc(32, 7)
const iv = Buffer.alloc(16, 1)
const text = Buffer.from('the road is dry')

/** @param {any} key */
const hmac = (key) => createHmac('sha256', key).update(text).digest('hex')

const before = { bytes: hmac(key), text: hmac('secret'), empty: hmac(Buffer.alloc(0)) }
/** @type {string[]} the kind of key that Node's own function got */
const seen = []
const original = crypto.createHmac
crypto.createHmac = (algorithm, key, options) => {
  seen.push(key?.constructor.name ?? '')
  return original(algorithm, key, options)
}
installKeyObjects()

test('importers of node:crypto, by name or as a module, hand KeyObjects over for bytes', () => {
  seen.length = 0
  hmac(key)
  createRequire(import.meta.url)('crypto').createHmac('sha256', new Uint8Array(key))
  hmac('secret')
  assert.deepEqual(seen, ['SecretKeyObject', 'SecretKeyObject', 'String'])
})

test('the results and the errors are those of the bytes', () => {
  assert.deepEqual({ bytes: hmac(key), text: hmac('secret'), empty: hmac(Buffer.alloc(0)) }, before)
  const cipher = createCipheriv('aes-256-cbc', key, iv)
  const sealed = Buffer.concat([cipher.update(text), cipher.final()])
  const decipher = createDecipheriv('aes-256-cbc', key, iv)
  assert.deepEqual(Buffer.concat([decipher.update(sealed), decipher.final()]), text)
  assert.throws(() => createCipheriv('aes-256-cbc', key.subarray(1), iv), { code: 'ERR_CRYPTO_INVALID_KEYLEN' })
})
