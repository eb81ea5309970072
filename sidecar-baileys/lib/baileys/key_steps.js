/**
 * Limits what one stanza may cost before its MAC is checked.
 *
 * A message names the number of its key, and libsignal derives all keys up to that one before it can check the MAC: up
 * to 4,000 for each session, in each of 41 sessions. So 67 bytes from a stranger cost 5 s of CPU time, and because they
 * had no plaintext, they came again after every kill. Here all decryptions of a stanza share one budget, and few
 * sessions are tried, the likeliest first. A stanza over its budget is undecryptable, like any other.
 *
 * Replaces methods of libsignal and Baileys; `internals.js` checks that the files are the ones we read.
 */
import { AsyncLocalStorage, AsyncResource } from 'node:async_hooks'
import { GroupCipher } from 'baileys/lib/Signal/Group/group_cipher.js'
// @ts-ignore no types
import crypto from 'libsignal/src/crypto.js'
// @ts-ignore no types
import errors from 'libsignal/src/errors.js'
// @ts-ignore no types
import protobufs from 'libsignal/src/protobufs.js'
// @ts-ignore no types
import SessionCipher from 'libsignal/src/session_cipher.js'
// @ts-ignore no types
import SessionRecord from 'libsignal/src/session_record.js'

/** Keys that one stanza may derive: a gap of 2,000 in two sessions, of which the second is the right one. */
export const STEPS_MAX = 4_000
/** Longest gap between two messages of one chain; libsignal's own bound. */
const GAP_MAX = 2_000
/** What else a ciphertext costs, in steps: its session is read, and a new ratchet takes two key agreements. */
const PART_STEPS = 20
/** The one whose chain matches or the open one, and five closed ones. */
const SESSIONS_TRIED = 6
const MAC_BYTES = 8
/** HMAC inputs: with a chain's key they give a message's key, or the chain's next key. */
const MESSAGE_KEY = Buffer.from([1])
const CHAIN_KEY = Buffer.from([2])

/** The stanza would cost too much. */
export class KeyStepsError extends Error {
  constructor() {
    super('too many message keys to derive')
    this.name = 'KeyStepsError'
  }
}

/** The rest of one stanza's budget. */
export class KeySteps {
  #left = STEPS_MAX

  /** @param {number} steps @throws {KeyStepsError} */
  spend(steps) {
    if (steps > this.#left) throw new KeyStepsError()
    this.#left -= steps
  }
}

/** @type {AsyncLocalStorage<KeySteps>} */
const budget = new AsyncLocalStorage()

/**
 * Decrypt one ciphertext on a stanza's budget.
 * @template T
 * @param {KeySteps} steps
 * @param {() => Promise<T>} decrypt
 * @returns {Promise<T>} rejects with `KeyStepsError` when the budget is spent
 */
export async function withinBudget(steps, decrypt) {
  steps.spend(PART_STEPS)
  return budget.run(steps, decrypt)
}

/** @param {number} steps */
const spend = (steps) => budget.getStore()?.spend(steps)

/** Replace the methods that derive message keys. Once per process. */
export function boundKeySteps() {
  const { queueJob } = SessionCipher.prototype
  const groups = /** @type {any} */ (GroupCipher.prototype)
  const { getSenderKey } = groups
  Object.assign(SessionCipher.prototype, {
    decryptWithSessions,
    fillMessageKeys,
    /** @param {() => Promise<any>} job of the caller's stanza; libsignal's queue runs it in that of an earlier one */
    queueJob(job) { return queueJob.call(this, AsyncResource.bind(job)) },
  })
  groups.getSenderKey = function (/** @type {any} */ state, /** @type {number} */ iteration) {
    const steps = iteration - state.getSenderChainKey().getIteration()
    if (steps > 0 && steps <= GAP_MAX) spend(steps)
    return getSenderKey.call(this, state, iteration)
  }
}

/**
 * Replaces `SessionCipher.decryptWithSessions`. A session that does not fit stays unchanged: libsignal would turn the
 * ratchet of each session that it tries, and store all of them with the one that fits.
 * @this {any} a SessionCipher
 * @param {Buffer} data
 * @param {any[]} sessions most recently used first
 * @returns {Promise<{session: any, plaintext: Buffer}>}
 */
async function decryptWithSessions(data, sessions) {
  if (sessions.length === 0) throw new errors.SessionError('No sessions available')
  for (const session of likeliest(sessions, ratchetKey(data))) {
    const before = copyOf(session)
    try {
      const plaintext = await this.doDecryptWhisperMessage(data, session)
      session.indexInfo.used = Date.now()
      return { session, plaintext }
    } catch (error) {
      Object.assign(session, before)
      // A spent key is spent for good: only this session has its chain.
      if (error instanceof KeyStepsError || error instanceof errors.MessageCounterError) throw error
    }
  }
  throw new errors.SessionError('No matching sessions found for message')
}

/** @param {Buffer} data @returns {Buffer} the sender's ratchet key */
const ratchetKey = (data) => protobufs.WhisperMessage.decode(data.subarray(1, -MAC_BYTES)).ephemeralKey

/**
 * @param {any[]} sessions
 * @param {Buffer} key
 * @returns {any[]} those to try: with a chain for this key, then the open one, then closed ones
 */
function likeliest(sessions, key) {
  const rank = (/** @type {any} */ session) => (session.getChain(key) ? 0 : session.indexInfo.closed === -1 ? 1 : 2)
  return sessions.toSorted((one, other) => rank(one) - rank(other)).slice(0, SESSIONS_TRIED)
}

/** @param {any} session */
function copyOf(session) {
  const Entry = SessionRecord.createEntry().constructor
  return Object.assign({ pendingPreKey: undefined }, Entry.deserialize(session.serialize()))
}

/**
 * Replaces `SessionCipher.fillMessageKeys`: derives the keys of a chain up to this number.
 * @param {any} chain
 * @param {number} counter
 */
function fillMessageKeys(chain, counter) {
  const { chainKey, messageKeys } = chain
  const steps = counter - chainKey.counter
  if (!(steps > 0)) return
  if (steps > GAP_MAX) throw new errors.SessionError('Over 2000 messages into the future!')
  if (chainKey.key === undefined) throw new errors.SessionError('Chain closed')
  spend(steps)
  while (chainKey.counter < counter) {
    messageKeys[chainKey.counter + 1] = crypto.calculateMAC(chainKey.key, MESSAGE_KEY)
    chainKey.key = crypto.calculateMAC(chainKey.key, CHAIN_KEY)
    chainKey.counter += 1
  }
}
