/**
 * The caches that Baileys would otherwise make anew for every socket: it never closes one of them, whose timer keeps it for
 * ever, and its counts of retries must outlive a socket (FACTS §9), or what cannot be read is asked for again and again.
 */
import { LRUCache } from 'lru-cache'

const HOUR_MS = 3_600_000
const MINUTES_5_MS = 300_000
/** A flood of unreadable messages must not become a flood of memory. */
const ENTRIES_MAX = 10_000

/**
 * @param {number} ttl milliseconds, as Baileys' DEFAULT_CACHE_TTLS has them in seconds
 * @returns {import('baileys').CacheStore}
 */
export function makeCache(ttl) {
  const entries = new LRUCache({ max: ENTRIES_MAX, ttl })
  return {
    get: (key) => /** @type {any} */ (entries.get(key)),
    set: (key, value) => void entries.set(key, /** @type {any} */ (value)),
    del: (key) => void entries.delete(key),
    flushAll: () => entries.clear(),
  }
}

/** One set for all sockets of this process, which serves one account. */
export const sharedCaches = {
  msgRetryCounterCache: makeCache(HOUR_MS),
  placeholderResendCache: makeCache(HOUR_MS),
  callOfferCache: makeCache(MINUTES_5_MS),
  userDevicesCache: makeCache(MINUTES_5_MS),
}
