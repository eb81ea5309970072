/** The bound on what one stanza may cost, with libsignal in this process: hash calls are counted, not milliseconds. */
import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { initAuthCreds } from 'baileys'
import * as libsignal from 'libsignal'
// @ts-ignore no types
import crypto from 'libsignal/src/crypto.js'
import { forgedMessage } from '../../simulator/lib/attacker.js'
import { withTypePrefix } from '../../simulator/lib/curve.js'
import { Device, padMessage } from '../../simulator/lib/device.js'
import { SKIPPED_MAX, trimSenderKeys, trimSession } from '../lib/baileys/key_records.js'
import { boundKeySteps, KeySteps, KeyStepsError, STEPS_MAX, withinBudget } from '../lib/baileys/key_steps.js'
import { captureConsole, makeLogger } from '../lib/logger.js'

const SESSIONS = 41
const GAP = 2_000
/** Two for each step, and a few dozen for each session that is tried. */
const HASHES_MAX = 2 * STEPS_MAX + 500

let hashes = 0
before(() => {
  captureConsole(makeLogger('silent')) // libsignal prints sessions
  boundKeySteps()
  const { calculateMAC } = crypto
  crypto.calculateMAC = (/** @type {Buffer} */ key, /** @type {Uint8Array} */ data) => {
    hashes += 1
    return calculateMAC(key, data)
  }
})

/** A reader with its record of one sender, as Baileys' store would keep it. */
class Reader {
  creds = initAuthCreds()
  /** @type {any} */
  record
  /** What is left of the record when it is kept. @type {(record: any) => any} */
  keep = (record) => record

  bundle() {
    const { signedPreKey, registrationId, signedIdentityKey } = this.creds
    return {
      registrationId, identity: signedIdentityKey.public,
      signedPreKey: { ...signedPreKey, publicKey: signedPreKey.keyPair.public },
    }
  }

  /** @param {string} type @param {Buffer} ciphertext @param {KeySteps} [steps] @returns {Promise<Buffer>} */
  read(type, ciphertext, steps = new KeySteps()) {
    const cipher = new libsignal.SessionCipher(this.#storage(), new libsignal.ProtocolAddress('sender', 1))
    return withinBudget(steps, () =>
      type === 'pkmsg' ? cipher.decryptPreKeyWhisperMessage(ciphertext) : cipher.decryptWhisperMessage(ciphertext))
  }

  /** @returns {any} */
  #storage() {
    const pair = (/** @type {any} */ { private: privKey, public: pubKey }) =>
      ({ privKey: Buffer.from(privKey), pubKey: withTypePrefix(pubKey) })
    return {
      loadSession: async () => this.record && libsignal.SessionRecord.deserialize(this.record),
      storeSession: async (/** @type {string} */ _, /** @type {any} */ record) => {
        this.record = this.keep(JSON.parse(JSON.stringify(record.serialize())))
      },
      isTrustedIdentity: () => true,
      loadPreKey: async () => undefined,
      removePreKey: async () => {},
      loadSignedPreKey: () => pair(this.creds.signedPreKey.keyPair),
      getOurRegistrationId: () => this.creds.registrationId,
      getOurIdentity: () => pair(this.creds.signedIdentityKey),
    }
  }
}

/** @param {Device} device @param {Reader} reader @param {{newSession?: boolean, skip?: number}} [options] */
async function write(device, reader, { newSession = false, skip = 0 } = {}) {
  if (newSession) await device.startSession(1, /** @type {any} */ (reader.bundle()))
  if (skip > 0) device.skip(1, skip)
  return device.encrypt(1, padMessage({ conversation: 'x' }))
}

async function manySessions() {
  const [device, reader] = [new Device(0), new Reader()]
  for (let i = 0; i < SESSIONS; i++) {
    const { type, ciphertext } = await write(device, reader, { newSession: true })
    await reader.read(type, ciphertext)
  }
  return { reader }
}

test('a forged message costs no more than the budget, whatever sessions there are', async () => {
  const { reader } = await manySessions()
  for (const previous_counter of [0, 1999]) {
    hashes = 0
    await assert.rejects(reader.read('msg', forgedMessage({ counter: 1999, previous_counter })))
    assert.ok(hashes < HASHES_MAX, `${hashes} hash calls`)
  }
})

test('the parts of one stanza share one budget', async () => {
  const { reader } = await manySessions()
  const steps = new KeySteps()
  hashes = 0
  for (let i = 0; i < 100; i++) await assert.rejects(reader.read('msg', forgedMessage({ counter: 300 }), steps))
  assert.ok(hashes < HASHES_MAX, `${hashes} hash calls`)
  await assert.rejects(reader.read('msg', forgedMessage({ counter: 1 }), steps), KeyStepsError)
})

test('a gap of two thousand opens, in the open session and in a closed one', async () => {
  const [device, reader] = [new Device(0), new Reader()]
  const first = await write(device, reader, { newSession: true })
  await reader.read(first.type, first.ciphertext)
  const far = await write(device, reader, { skip: GAP - 1 })
  await reader.read(far.type, far.ciphertext)

  const late = await write(device, reader, { skip: GAP - 1 })
  const stranger = new Device(0)
  for (let i = 0; i < SESSIONS - 2; i++) {
    const { type, ciphertext } = await write(stranger, reader, { newSession: true })
    await reader.read(type, ciphertext)
  }
  assert.equal(late.type, 'pkmsg', 'the sender has had no answer')
  await reader.read(late.type, late.ciphertext)
})

test('a session that does not fit is left as it was', async () => {
  const { reader } = await manySessions()
  const sessions = /** @type {any} */ (libsignal.SessionRecord.deserialize(reader.record)).getSessions()
  const before = JSON.stringify(sessions[0].serialize())
  const cipher = Object.create(libsignal.SessionCipher.prototype)
  let tried = 0
  cipher.doDecryptWhisperMessage = async (/** @type {Buffer} */ _, /** @type {any} */ session) => {
    if (++tried === 2) return Buffer.from('fits')
    session.currentRatchet.previousCounter = 77
    session.addChain(Buffer.alloc(33, tried), { messageKeys: {}, chainKey: { counter: 0 }, chainType: 2 })
    throw new Error('Bad MAC')
  }
  const { session } = await cipher.decryptWithSessions(forgedMessage({}), sessions)
  assert.notEqual(session, sessions[0])
  assert.equal(JSON.stringify(sessions[0].serialize()), before)
})

test('of a session record, closed sessions lose their skipped keys and the open one keeps the last', async () => {
  const [device, reader] = [new Device(0), new Reader()]
  reader.keep = trimSession
  for (let i = 0; i < 12; i++) {
    const { type, ciphertext } = await write(device, reader, { newSession: i % 4 === 0, skip: GAP - 1 })
    await reader.read(type, ciphertext)
  }
  const sessions = Object.values(reader.record._sessions)
  const skipped = (/** @type {any} */ { _chains }) =>
    Object.values(_chains).reduce((sum, chain) => sum + Object.keys(/** @type {any} */ (chain).messageKeys).length, 0)
  assert.deepEqual(sessions.map(skipped).sort(), [0, 0, SKIPPED_MAX])
})

test('of a sender key, the last skipped keys of all its states are kept', () => {
  const keys = (/** @type {number} */ count) => Array.from({ length: count }, (_, iteration) => ({ iteration }))
  const states = [{ senderKeyId: 1, senderMessageKeys: keys(GAP) }, { senderKeyId: 2, senderMessageKeys: keys(1_500) }]
  const [older, newer] = trimSenderKeys(states)
  assert.equal(newer.senderMessageKeys.length, 1_500)
  assert.deepEqual(older.senderMessageKeys, keys(GAP).slice(-500))
})
