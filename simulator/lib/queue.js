/**
 * What the server keeps for the client: every stanza that was not receipted, acked or nacked, in order.
 *
 * A stanza leaves when its own answer comes. Two stanzas may share id and sender (a retry's good copy, or a sender who
 * reuses an id): each takes one answer. A retry receipt marks the copy that failed; the nack that follows applies to
 * that copy, never to the good one.
 */

/**
 * @typedef {object} Queued
 * @property {number} n
 * @property {import('./stanza.js').Node} node
 * @property {boolean} sent - on the current connection
 * @property {number} sentAt - monotonic milliseconds of the last write
 * @property {boolean} failed - the client asked for another copy of it
 * @property {boolean} stuck - nacked, but still kept first in the queue
 * @property {boolean} forgiven - the server itself ignores every answer: it is no debt, and never leaves
 */

/** @param {string | undefined} jid */
export const userOf = (jid) => (jid ?? '').split('@')[0]?.split(':')[0] ?? ''

export class OfflineQueue {
  /** @type {Map<number, Queued>} */
  #entries = new Map()
  /** @type {Map<string, Queued[]>} by stanza id */
  #byId = new Map()
  /** @type {Map<string, number>} nacks that only repeat a retry receipt */
  #expectedNacks = new Map()
  #next = 0

  get size() {
    return this.#entries.size
  }

  /** In order; entries added while one iterates are included. */
  entries() {
    return this.#entries.values()
  }

  /** @param {import('./stanza.js').Node} node */
  add(node) {
    const entry = { n: this.#next++, node, sent: false, sentAt: 0, failed: false, stuck: false, forgiven: false }
    this.#entries.set(entry.n, entry)
    const id = node.attrs.id ?? ''
    this.#byId.set(id, [...(this.#byId.get(id) ?? []), entry])
    return entry
  }

  /** @param {Queued} entry */
  markSent(entry) {
    entry.sent = true
    entry.sentAt = performance.now()
  }

  /** Whether a written stanza waits for its answer. */
  get unsettled() {
    return [...this.#entries.values()].some(({ sent }) => sent)
  }

  /** Stanzas that withhold the rest. */
  get stuck() {
    return [...this.#entries.values()].filter(({ stuck }) => stuck)
  }

  /** Releases the stanzas that a fault has kept. */
  release() {
    for (const entry of this.#entries.values()) {
      entry.forgiven = false
      if (entry.stuck) this.#remove(entry)
    }
  }

  /** The client has gone: what was sent and not answered counts as unsent. */
  forgetSent() {
    for (const entry of this.#entries.values()) entry.sent = false
    this.#expectedNacks.clear()
  }

  clear() {
    this.#entries.clear()
    this.#byId.clear()
    this.#expectedNacks.clear()
  }

  /** @param {import('./stanza.js').Node} answer - a receipt, or an ack of no message @returns {boolean} whether one left */
  settle(answer) {
    const sent = this.#sent(answer)
    const stuck = sent.filter(({ stuck }) => stuck)
    if (stuck.length) return stuck.map((entry) => this.#remove(entry)).some(Boolean)
    return this.#remove(sent.find((entry) => !entry.failed) ?? sent[0])
  }

  /** @param {import('./stanza.js').Node} receipt - of type retry */
  markFailed(receipt) {
    for (const entry of this.#sent(receipt)) entry.failed = true
    const key = nackKey(receipt)
    this.#expectedNacks.set(key, (this.#expectedNacks.get(key) ?? 0) + 1)
  }

  /** What the client has written to and not yet answered, under this id. @param {string | undefined} id */
  unanswered(id = '') {
    return (this.#byId.get(id) ?? []).filter(({ sent }) => sent)
  }

  /**
   * The ack of a message that was not accepted, with an error or (after a retry receipt) without one.
   * @param {import('./stanza.js').Node} nack @param {{sticks?: boolean}} [options] - `sticks`: it is kept, and is first from now on
   */
  settleNack(nack, { sticks = false } = {}) {
    const key = nackKey(nack)
    const expected = this.#expectedNacks.get(key) ?? 0
    const sent = this.#sent(nack)
    if (sticks) return this.#stick(sent.find((entry) => entry.failed) ?? sent[0])
    if (!expected) return sent[0]?.stuck && !nack.attrs.error ? this.settle(nack) : this.#remove(sent[0])
    if (expected > 1) this.#expectedNacks.set(key, expected - 1)
    else this.#expectedNacks.delete(key)
    return this.#remove(sent.find((entry) => entry.failed))
  }

  /** @param {Queued | undefined} entry */
  #stick(entry) {
    if (entry) entry.stuck = true
    return false
  }

  /** @param {import('./stanza.js').Node} answer */
  #sent({ tag, attrs }) {
    const wanted = tag === 'ack' ? attrs.class : 'message'
    const same = (/** @type {Queued} */ { sent, forgiven, node }) => sent && !forgiven && node.tag === wanted && sameSender(node.attrs, attrs)
    return (this.#byId.get(attrs.id ?? '') ?? []).filter(same)
  }

  /** @param {Queued | undefined} entry */
  #remove(entry) {
    if (!entry) return false
    this.#entries.delete(entry.n)
    const id = entry.node.attrs.id ?? ''
    const rest = (this.#byId.get(id) ?? []).filter((other) => other !== entry)
    if (rest.length) this.#byId.set(id, rest)
    else this.#byId.delete(id)
    return true
  }
}

/** @param {import('./stanza.js').Node} answer */
const nackKey = ({ attrs }) => `${attrs.id}|${userOf(attrs.participant ?? attrs.to)}`

/** @param {Record<string, string>} stanza @param {Record<string, string>} answer */
function sameSender(stanza, answer) {
  if (stanza.participant) return userOf(stanza.participant) === userOf(answer.participant) && userOf(stanza.from) === userOf(answer.to)
  const from = userOf(stanza.from)
  return from === userOf(answer.to) || (stanza.recipient !== undefined && userOf(stanza.recipient) === userOf(answer.recipient ?? answer.to))
}
