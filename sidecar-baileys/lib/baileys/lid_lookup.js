/** For numbers without a known LID: asks WhatsApp once in a while, not at each of their messages. */
import { LRUCache } from 'lru-cache'
import { atMost } from './caches.js'

/** How long an answer "none" holds. An account gets its LID once in its life. */
const UNKNOWN_MS = 10 * 60 * 1_000
/** A failed query proves nothing, and Baileys would give the message up: the message is read under its number. */
const FAILED_MS = 30 * 1_000
/** A flood of strangers must not become a flood of memory. */
const ENTRIES_MAX = 10_000

/**
 * @typedef {{pn: string, lid: string}} Mapping
 * @typedef {(numbers: string[]) => Promise<Mapping[] | undefined>} Lookup
 */

/**
 * @param {Lookup | undefined} lookup Baileys' own: one query to the server
 * @param {() => number} [now] milliseconds
 * @returns {Lookup | undefined}
 */
export function rememberUnknown(lookup, now = () => performance.now()) {
  if (!lookup) return undefined
  /** @type {LRUCache<string, number>} */
  const unknown = new LRUCache(atMost(ENTRIES_MAX))
  return async (numbers) => {
    const asked = numbers.filter((number) => now() >= (unknown.get(number) ?? 0))
    if (asked.length === 0) return []
    const remember = (/** @type {string[]} */ numbers, /** @type {number} */ ms) => {
      for (const number of numbers) unknown.set(number, now() + ms)
    }
    let found
    try {
      found = await lookup(asked)
    } catch {
      remember(asked, FAILED_MS)
      return []
    }
    const known = new Set((found ?? []).map(({ pn }) => pn))
    if (found) remember(asked.filter((number) => !known.has(number)), UNKNOWN_MS)
    return found
  }
}
