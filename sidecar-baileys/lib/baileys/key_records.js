/**
 * Limits what is kept of a session and of a sender key. Pure: a record in, a record out.
 *
 * Each message rewrites the whole record, and the sender decides how it grows: each skipped message leaves a key, each
 * new session leaves the former one. libsignal keeps 2,000 keys for each of 41 sessions, 4.3 MB.
 */

/** Skipped keys of a record; one message may skip that many. */
export const SKIPPED_MAX = 2_000
/** Receiving chains of one session on which messages may still come; Signal's own bound. */
const CHAINS_MAX = 5
/** libsignal's marker of a sending chain. */
const SENDING = 1

/**
 * @param {any} record a `SessionRecord`, serialised
 * @returns {any} closed sessions without their skipped keys, the open one with its last chains and keys
 */
export function trimSession(record) {
  if (!record?._sessions) return record
  const sessions = Object.entries(record._sessions).map(([id, session]) => [id, trimEntry(session)])
  return { ...record, _sessions: Object.fromEntries(sessions) }
}

/** @param {any} session */
function trimEntry(session) {
  const chains = Object.entries(session._chains)
  const receiving = chains.filter(([, chain]) => chain.chainType !== SENDING).slice(-CHAINS_MAX)
  let left = session.indexInfo.closed === -1 ? SKIPPED_MAX : 0
  const kept = new Map()
  for (const [id, chain] of receiving.reverse()) {
    const keys = left > 0 ? Object.entries(chain.messageKeys).slice(-left) : []
    left -= keys.length
    kept.set(id, { ...chain, messageKeys: Object.fromEntries(keys) })
  }
  const all = chains.flatMap(([id, chain]) => (chain.chainType === SENDING ? [[id, chain]]
    : kept.has(id) ? [[id, kept.get(id)]] : []))
  return { ...session, _chains: Object.fromEntries(all) }
}

/**
 * @param {any[]} states of a sender key, oldest first
 * @returns {any[]} with the last skipped keys of all of them
 */
export function trimSenderKeys(states) {
  let left = SKIPPED_MAX
  return states.toReversed().map((state) => {
    const keys = left > 0 ? (state.senderMessageKeys ?? []).slice(-left) : []
    left -= keys.length
    return { ...state, senderMessageKeys: keys }
  }).toReversed()
}
