/** An append-only record that can be read from a position and waited on. */
import { performance } from 'node:perf_hooks'

const KEEP = 200_000 // entries; older ones are dropped, numbers go on

/** @returns {number} Unix milliseconds with fractions, monotonic within the process */
export function nowMs() {
  return performance.timeOrigin + performance.now()
}

/** @typedef {{n: number, at_ms: number, kind: string} & Record<string, unknown>} Entry */

export class Journal {
  /** @type {Entry[]} */
  #items = []
  #next = 0
  /** @type {(entry: Entry) => void} */
  #onAdd

  /** @param {(entry: Entry) => void} [onAdd] */
  constructor(onAdd = () => {}) {
    this.#onAdd = onAdd
  }

  /** @param {string} kind @param {Record<string, unknown>} [fields] */
  add(kind, fields = {}) {
    const entry = { n: this.#next++, at_ms: nowMs(), kind, ...fields }
    this.#items.push(entry)
    if (this.#items.length > KEEP) this.#items.splice(0, KEEP / 10)
    this.#onAdd(entry)
    return entry
  }

  /** @param {number} [n] - the `next` of an earlier answer */
  since(n = 0) {
    const first = this.#items[0]?.n ?? this.#next
    return { next: this.#next, items: this.#items.slice(Math.max(0, n - first)) }
  }

  get items() {
    return this.#items
  }
}
