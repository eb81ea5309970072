/**
 * The log of this process: one JSON object a line on stderr. stdout belongs to the wire.
 *
 * Logs a text and a few named scalars, nothing else. Baileys passes whole nodes, keys and messages to its logger, and
 * libsignal prints sessions with `console.info`; a list of what to hide would never be complete.
 */
import pino from 'pino'

const SCALARS = [
  'id', 'msgId', 'code', 'statusCode', 'reason', 'count', 'attempt', 'attempts', 'retryCount', 'type', 'name', 'signal',
  'ms', 'version', 'unanswered',
]
const LONGEST = 300

/** Hide what looks like an address, a key or a phone number. @param {string} text */
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
          // Texts are redacted and cut as well. Further arguments, a stringified node for example, are dropped.
          const [first, second] = /** @type {any[]} */ (args)
          if (typeof first === 'string') return method.call(this, redact(first))
          const fields = first instanceof Error ? { err: first } : (first ?? {})
          method.call(this, fields, redact(String(second ?? first?.msg ?? '')))
        },
      },
    },
    pino.destination({ fd: 2, sync: true }),
  )
}

/** Send what dependencies print to the logger. Call it before importing them. @param {import('pino').Logger} logger */
export function captureConsole(logger) {
  for (const method of /** @type {const} */ (['log', 'info', 'warn', 'error', 'debug', 'trace'])) {
    // The arguments may be whole sessions with their keys: keep only the first, and only if it is a text.
    console[method] = (first) => logger.debug(typeof first === 'string' ? first : 'a dependency printed an object')
  }
}
