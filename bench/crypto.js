/**
 * What a call of Node's HMAC and ciphers costs with the key as bytes, as a KeyObject, and as bytes that the sidecar
 * turns into a KeyObject: `node bench/crypto.js`. Processor time in µs, the best of five rounds. Prints; judges nothing.
 */
import crypto, { createSecretKey } from 'node:crypto'
import { installKeyObjects } from '../sidecar-baileys/lib/baileys/key_objects.js'

const CALLS = 10_000
const ROUNDS = 5
const key = Buffer.alloc(32, 7)
const iv = Buffer.alloc(16, 1)
const data = Buffer.alloc(300, 3)

/** @type {Record<string, (key: any) => unknown>} */
const CALL = {
  'HMAC-SHA256': (key) => crypto.createHmac('sha256', key).update(data).digest(),
  'AES-256-CBC': (key) => {
    const cipher = crypto.createCipheriv('aes-256-cbc', key, iv)
    return Buffer.concat([cipher.update(data), cipher.final()])
  },
}

/** @param {() => unknown} call @returns {number} µs */
function cost(call) {
  const rounds = Array.from({ length: ROUNDS }, () => {
    const before = process.cpuUsage()
    for (let n = 0; n < CALLS; n++) call()
    const { user, system } = process.cpuUsage(before)
    return (user + system) / CALLS
  })
  return Math.min(...rounds)
}

const object = createSecretKey(key)
const names = Object.keys(CALL)
const bytes = names.map((name) => cost(() => CALL[name](key)))
const objects = names.map((name) => cost(() => CALL[name](object)))
installKeyObjects()
const replaced = names.map((name) => cost(() => CALL[name](key)))
process.stdout.write(`Node ${process.version}, 300 bytes, µs a call\n`)
for (const [n, name] of names.entries()) {
  const figures = [bytes[n], objects[n], replaced[n]].map((each) => each.toFixed(1).padStart(6))
  process.stdout.write(`${name}: bytes ${figures[0]}, KeyObject ${figures[1]}, sidecar ${figures[2]}, `
    + `${(bytes[n] / replaced[n]).toFixed(1)} times as fast\n`)
}
