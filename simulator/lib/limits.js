/** How often a client may do something within a period. */

/**
 * Counts one more occurrence and says whether it is still allowed.
 * @param {number[]} recent - monotonic milliseconds; kept by the caller @param {number} limit - 0: none @param {number} spanMs
 */
export function within(recent, limit, spanMs) {
  const now = performance.now()
  while (recent.length && /** @type {number} */ (recent[0]) < now - spanMs) recent.shift()
  recent.push(now)
  return limit === 0 || recent.length <= limit
}
