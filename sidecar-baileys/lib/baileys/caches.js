/**
 * The caches that Baileys would otherwise create for every socket. It never closes them, so their timers would keep
 * them for ever. Its retry counts must outlive a socket, or it would request an unreadable message again and again
 * (docs/whatsapp.md, "Options").
 */
import { LRUCache } from 'lru-cache'
import { CACHE_OPTIONS } from './internals.js'

/** A flood of unreadable messages must not become a flood of memory. */
const ENTRIES_MAX = 10_000
const ONE = () => 1

/**
 * Options of a cache with this many entries. `max` would reserve the room for all of them: 300 kB for 10,000.
 * @param {number} most
 */
export const atMost = (most) => ({ maxSize: most, sizeCalculation: ONE })

/**
 * @param {number} ttl milliseconds
 * @returns {import('baileys').CacheStore}
 */
export function makeCache(ttl) {
  const entries = new LRUCache({ ...atMost(ENTRIES_MAX), ttl })
  return {
    get: (key) => /** @type {any} */ (entries.get(key)),
    set: (key, value) => void entries.set(key, /** @type {any} */ (value)),
    del: (key) => void entries.delete(key),
    flushAll: () => entries.clear(),
  }
}

/** How long the retry count of a message is kept. */
const RETRY_COUNTS_MS = 24 * 60 * 60 * 1_000

/**
 * How often each message was requested, for the retry manager of every socket. A manager forgets a count when it gives
 * the message up, and would start over for the next copy: here a count only grows.
 */
export const retryCounts = /** @type {any} */ ({
  ...makeCache(RETRY_COUNTS_MS),
  delete: () => false,
  clear: () => {},
})

/**
 * One set for all sockets of this process, which serves one account.
 * @type {Record<keyof typeof CACHE_OPTIONS, import('baileys').CacheStore>}
 */
export const sharedCaches = /** @type {any} */ (Object.fromEntries(
  Object.entries(CACHE_OPTIONS).map(([option, seconds]) => [option, makeCache(seconds * 1_000)]),
))
