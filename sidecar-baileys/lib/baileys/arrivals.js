/**
 * Reports group messages that have arrived to the worker before they are durable: a copy that comes after the end of
 * this socket, or of this process, is as old as the first (docs/architecture.md, "Live only").
 */

/** Attributes that identify a stanza. */
const IDENTITY = ['from', 'participant', 'id', 't']

export class Arrivals {
  /** @type {{attrs: Record<string, string>, at_ms: number}[]} */
  #stanzas = []

  /** @param {(method: string, params: object) => void} notify */
  constructor(notify) {
    this.notify = notify
  }

  /** @param {import('./stanza.js').Stanza} stanza */
  arrived({ node: { attrs }, arrivedAt, offset }) {
    if (!attrs.from?.endsWith('@g.us')) return
    const kept = Object.fromEntries(IDENTITY.flatMap((name) => (attrs[name] === undefined ? [] : [[name, attrs[name]]])))
    this.#stanzas.push({ attrs: /** @type {Record<string, string>} */ (kept), at_ms: arrivedAt })
    // All arrivals of one turn go in one line.
    if (this.#stanzas.length === 1) setImmediate(() => this.#tell(offset))
  }

  /** @param {number | null} offset of our clock from the server's, milliseconds */
  #tell(offset) {
    const stanzas = this.#stanzas
    this.#stanzas = []
    this.notify('arrived', { server_time_offset_ms: offset, stanzas })
  }
}
