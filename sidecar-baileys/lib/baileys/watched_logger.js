/** A logger for Baileys that notices the one event which Baileys only logs: it gave a message stanza up. */
import { LOG_GAVE_UP } from './internals.js'

/**
 * @param {import('pino').Logger} logger
 * @param {(xml: string) => void} onGaveUp with the stanza as Baileys logs it
 * @param {Promise<unknown>} closed the connection has closed: stop watching
 * @returns {import('pino').Logger}
 */
export function watchLogger(logger, onGaveUp, closed) {
  const watched = logger.child({})
  const error = watched.error.bind(watched)
  watched.error = (/** @type {any[]} */ ...args) => {
    if (args[1] === LOG_GAVE_UP) onGaveUp(String(args[0]?.node))
    error(.../** @type {[any, any]} */ (args))
  }
  watched.child = /** @type {any} */ (itself)
  // A timer of Baileys' MessageRetryManager holds this logger for five minutes after the close (seen in a heap
  // snapshot). It must not hold the connection as well.
  void closed.then(() => { watched.error = error })
  return watched
}

/** A logger as its own child; a closure would hold the connection. @this {import('pino').Logger} */
function itself() {
  return this
}
