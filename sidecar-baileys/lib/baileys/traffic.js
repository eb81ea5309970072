/**
 * Counts the stanzas of each kind on a connection, and those that got no answer: by tag, notifications by type. For the
 * log: no content, no address.
 */

const LABEL = /^[\w:.-]{1,40}$/
const MOST_LABELS = 60
const OTHER = 'other'
/** Stanzas whose answer is awaited; above it the oldest are forgotten. */
const MOST_OPEN = 10_000
/** Tags that need no answer: answers themselves, and those of the stream. */
const NOT_OWED = new Set([
  'ack', 'ib', 'presence', 'chatstate', 'success', 'failure', 'stream:error', 'stream:features', 'xmlstreamend',
])
/** Receipts that ask for something instead of answering. */
const QUESTIONS = new Set(['retry', 'server-error'])

export class Traffic {
  /** @type {Map<string, {count: number, unanswered: number}>} */
  #kinds = new Map()
  /** Stanzas that wait for an answer. @type {Map<string, {label: string, count: number}>} */
  #open = new Map()

  /** @param {import('baileys').BinaryNode | Uint8Array} node bytes before the handshake has ended; not counted */
  note(node) {
    if (node instanceof Uint8Array) return
    const words = node.tag === 'notification' ? [node.tag, node.attrs.type ?? 'untyped'] : [node.tag]
    const label = words.every((word) => LABEL.test(word)) ? words.join(' ') : OTHER
    const kept = this.#kinds.has(label) || this.#kinds.size < MOST_LABELS ? label : OTHER
    const kind = this.#kinds.get(kept) ?? { count: 0, unanswered: 0 }
    this.#kinds.set(kept, kind)
    kind.count += 1
    if (isOwed(node)) this.#await(`${node.tag} ${node.attrs.id}`, kept, kind)
  }

  /** @param {string} key @param {string} label @param {{unanswered: number}} kind */
  #await(key, label, kind) {
    kind.unanswered += 1
    const open = this.#open.get(key) ?? { label, count: 0 }
    open.count += 1
    this.#open.set(key, open)
    if (this.#open.size > MOST_OPEN) this.#settle(/** @type {string} */ (this.#open.keys().next().value))
  }

  /** @param {string} key */
  #settle(key) {
    const open = this.#open.get(key)
    if (!open) return
    this.#open.delete(key)
    const kind = this.#kinds.get(open.label)
    if (kind) kind.unanswered -= open.count
  }

  /** A stanza leaves. @param {string} xml as Baileys logs it */
  sent(xml) {
    const [, tag, rest] = /^<([\w:]+) ([^>]*)/.exec(xml) ?? []
    const attrs = Object.fromEntries([...(rest ?? '').matchAll(/([\w:]+)='([^']*)'/g)].map(([, name, value]) => [name, value]))
    if (tag === 'iq' && attrs.type !== 'get' && attrs.type !== 'set') this.#settle(`iq ${attrs.id}`)
    if (tag === 'ack') this.#settle(`${attrs.class} ${attrs.id}`)
    if (tag !== 'receipt' || QUESTIONS.has(attrs.type)) return
    const more = [...xml.matchAll(/<item id='([^']*)'/g)].map(([, id]) => id)
    for (const id of [attrs.id, ...more]) this.#settle(`message ${id}`)
  }

  /** @returns {{type: string, count: number, unanswered: number}[]} */
  get counts() {
    return [...this.#kinds].map(([type, kind]) => ({ type, ...kind }))
  }
}

/** Whether the server awaits an answer: a result to its query, else an ack or a receipt. @param {import('baileys').BinaryNode} node */
function isOwed({ tag, attrs }) {
  if (!attrs.id || NOT_OWED.has(tag)) return false
  return tag !== 'iq' || attrs.type === 'get' || attrs.type === 'set'
}
