/** Messages from a modified client: ones that cost their reader much, or that no key opens. */
import { createHmac, randomBytes } from 'node:crypto'
import { Curve } from 'baileys'
// @ts-ignore no types
import whisper from 'libsignal/src/protobufs.js'
import { withTypePrefix } from './curve.js'

const VERSION = 0x33 // this version and the oldest one supported: both 3
const BLOCK_BYTES = 16
const MAC_BYTES = 8

/**
 * A pairwise message of 67 bytes under a ratchet key that nobody has. Its reader derives all keys up to `counter`, in
 * each session that it tries, before it can see that the MAC is wrong.
 * @param {{counter?: number, previous_counter?: number}} options
 */
export function forgedMessage({ counter = 1999, previous_counter: previousCounter = 0 }) {
  const body = whisper.WhisperMessage.encode({
    ephemeralKey: withTypePrefix(Curve.generateKeyPair().public), counter, previousCounter, ciphertext: Buffer.alloc(BLOCK_BYTES)
  }).finish()
  return Buffer.concat([Buffer.from([VERSION]), body, Buffer.alloc(MAC_BYTES)])
}

/** Bytes that are no message at all. @param {number} length */
export const garbage = (length) => randomBytes(length)

/** The key of a chain so many steps on. @param {Uint8Array} key @param {number} steps */
export function advance(key, steps) {
  let next = Buffer.from(key)
  for (let i = 0; i < steps; i++) next = createHmac('sha256', next).update(Buffer.from([2])).digest()
  return next
}
