/**
 * Logs go to stderr, one JSON object a line; stdout belongs to the wire.
 *
 * Nothing is logged but a text and a few named scalars. Baileys hands whole nodes, keys and messages to its logger, and
 * libsignal prints sessions with `console.info`: an allow-list is the only list that stays right.
 */
import pino from 'pino'

const SCALARS = ['id', 'msgId', 'code', 'statusCode', 'reason', 'count', 'attempt', 'attempts', 'retryCount', 'type', 'name', 'signal', 'ms', 'version']
const LONGEST = 300

/** @param {string} text hides what looks like an address with a query, a key or another long token */
export function redact(text) {
  return text
    .replace(/\b(?:https?|wss?):\/\/\S+/g, '<url>')
    .replace(/[A-Za-z0-9+/_=-]{40,}/g, '<long>')
    .replace(/\b\d{7,}(?=[@:.])/g, '<number>')
    .slice(0, LONGEST)
}

/** @param {Record<string, any>} fields */
function allowed(fields) {
  /** @type {Record<string, any>} */
  const kept = {}
  for (const field of SCALARS) {
    const value = fields[field]
    if (typeof value === 'number' || typeof value === 'boolean') kept[field] = value
    if (typeof value === 'string') kept[field] = redact(value)
  }
  const error = fields.err ?? fields.error
  if (error?.message) kept.error = redact(String(error.message))
  return kept
}

/** @param {string} level trace, debug, info, warn or error */
export function makeLogger(level) {
  return pino.pino(
    {
      level,
      base: undefined,
      timestamp: false,
      formatters: { level: (label) => ({ level: label }), log: allowed },
      hooks: {
        logMethod(args, method) {
          // Texts are cut and cleaned too; further arguments (a stringified node, say) are dropped.
          const [first, second] = /** @type {any[]} */ (args)
          if (typeof first === 'string') method.call(this, redact(first))
          else method.call(this, first instanceof Error ? { err: first } : (first ?? {}), redact(String(second ?? first?.msg ?? '')))
        },
      },
    },
    pino.destination({ fd: 2, sync: true }),
  )
}

/** @param {import('pino').Logger} logger takes what dependencies print; called before they are imported */
export function captureConsole(logger) {
  for (const method of /** @type {const} */ (['log', 'info', 'warn', 'error', 'debug', 'trace'])) {
    // The arguments may be whole sessions with their keys: only the first text is kept.
    console[method] = (...args) => logger.debug(typeof args[0] === 'string' ? args[0] : 'a dependency printed an object')
  }
}
