/** A logger for Baileys that catches what Baileys only logs: it gave up a message stanza; a stanza leaves. */
import { LOG_GAVE_UP, LOG_SENT } from './internals.js'

/**
 * @param {import('pino').Logger} logger
 * @param {object} hooks each gets the stanza's XML, as Baileys logs it
 * @param {(xml: string) => void} hooks.onGaveUp
 * @param {(xml: string) => void} hooks.onSent called at the levels debug and trace alone: it costs a text for each stanza
 * @param {Promise<unknown>} closed the connection has closed: stop watching
 * @returns {import('pino').Logger}
 */
export function watchLogger(logger, { onGaveUp, onSent }, closed) {
  const watched = logger.child({})
  const error = watched.error.bind(watched)
  watched.error = (/** @type {any[]} */ ...args) => {
    if (args[1] === LOG_GAVE_UP) onGaveUp(String(args[0]?.node))
    error(.../** @type {[any, any]} */ (args))
  }
  const trace = watched.trace.bind(watched)
  if (logger.isLevelEnabled('debug')) {
    Object.defineProperty(watched, 'level', { value: 'trace' }) // Baileys checks it before it logs a stanza
    watched.trace = (/** @type {any[]} */ ...args) => {
      if (args[0]?.msg === LOG_SENT) onSent(String(args[0].xml))
      trace(.../** @type {[any]} */ (args))
    }
  }
  watched.child = /** @type {any} */ (itself)
  // A timer of Baileys' MessageRetryManager holds this logger for five minutes after the close (seen in a heap
  // snapshot). It must not hold the connection as well.
  void closed.then(() => {
    watched.error = error
    watched.trace = trace
  })
  return watched
}

/** A logger as its own child; a closure would hold the connection. @this {import('pino').Logger} */
function itself() {
  return this
}
