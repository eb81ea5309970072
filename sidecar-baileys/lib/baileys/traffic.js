/** How many stanzas of each kind a connection brought: by tag, and notifications by type. For the log: no content, no address. */

const LABEL = /^[\w:.-]{1,40}$/
const MOST_LABELS = 60
const OTHER = 'other'

export class Traffic {
  /** @type {Map<string, number>} */
  #counts = new Map()

  /** @param {import('baileys').BinaryNode | Uint8Array} node bytes before the handshake has ended; not counted */
  note(node) {
    if (node instanceof Uint8Array) return
    const words = node.tag === 'notification' ? [node.tag, node.attrs.type ?? 'untyped'] : [node.tag]
    const label = words.every((word) => LABEL.test(word)) ? words.join(' ') : OTHER
    const kept = this.#counts.has(label) || this.#counts.size < MOST_LABELS ? label : OTHER
    this.#counts.set(kept, (this.#counts.get(kept) ?? 0) + 1)
  }

  /** @returns {[label: string, count: number][]} */
  get counts() {
    return [...this.#counts]
  }
}
