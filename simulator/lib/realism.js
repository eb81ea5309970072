/**
 * How unkind the server is: switches for reported behaviour of the real server. README.md gives each one's source and
 * certainty.
 *
 * Three profiles name a whole set. `kind` lets every client through; `real` is the server as reported; `default` is
 * `real` with a patience of one minute instead of fifty, so that a forgotten ack ends the stream during a test, and
 * with any number of logins, because tests log in more often than an account does.
 */
import { ControlError } from './errors.js'

const MINUTE_MS = 60_000

/** Times of the real server in milliseconds; `time_scale` divides them all, so that tests need not wait for hours. */
export const TIMES = {
  code_ms: 180_000, // life of a pairing code
  first_ref_ms: 60_000, // life of the first QR reference
  next_ref_ms: 20_000, // and of each one after it
  passkey_ms: 600_000, // life of a passkey's challenge
  minute_ms: MINUTE_MS // of the two limits per minute
}

export const KIND = {
  debts: false, // a stanza that is not answered in time ends the stream
  debt_s: 3000, // that time, in seconds
  strict_acks: false, // an ack with a wrong class, to, participant, type or recipient settles nothing
  windows: false, // the backlog comes in windows; the next one when the client asks
  window: 100, // stanzas
  first_window_unasked: true,
  qr_expires: false, // each QR reference has its own time
  code_expires: false,
  check_display: false, // companion_platform_display must be "Browser (OS)", else 400
  max_devices: 0, // above it the phone refuses the scan or the code; 0: no limit
  min_version: '', // e.g. "2.3000.1030000000": an older client gets its QR, and the scan fails silently
  passkey: false, // after the scan or the code the owner must sign a challenge
  web_version: '', // e.g. "2.3000.1040000000": what /sw.js of the control API says is today's
  queries_per_minute: 0, // above it 429; 0: no limit
  logins_per_minute: 0, // above it the login is refused with 503
  time_scale: 1
}

/** @typedef {typeof KIND} Switches */

/** @type {Switches} */
const REAL = {
  ...KIND, debts: true, strict_acks: true, windows: true, qr_expires: true, code_expires: true, check_display: true,
  queries_per_minute: 600, logins_per_minute: 30, max_devices: 4
}

/** @type {Record<string, Partial<Switches>>} */
export const PROFILES = {
  kind: KIND,
  default: { ...REAL, debt_s: 60, logins_per_minute: 0, max_devices: 0 },
  real: REAL
}

export class Realism {
  /** @type {Switches} */
  #switches

  /** @param {string} [profile] */
  constructor(profile = 'default') {
    this.#switches = { ...KIND }
    this.set({ profile })
  }

  get switches() {
    return this.#switches
  }

  /** A time of the real server as this one keeps it. @param {keyof typeof TIMES} name @returns {number} milliseconds */
  ms(name) {
    return TIMES[name] / this.#switches.time_scale
  }

  /** How long an answer may take, milliseconds. */
  get patienceMs() {
    return this.#switches.debt_s * 1000 / this.#switches.time_scale
  }

  /** @param {Record<string, unknown>} request - `profile` first, then single switches @returns {Switches} */
  set({ profile, ...switches }) {
    const base = profile === undefined ? {} : PROFILES[String(profile)]
    if (!base) throw new ControlError(400, `no profile ${profile}; there are ${Object.keys(PROFILES).join(', ')}`)
    for (const [name, value] of Object.entries(switches)) {
      const known = KIND[/** @type {keyof Switches} */ (name)]
      if (known === undefined) throw new ControlError(400, `no switch ${name}`)
      if (typeof value !== typeof known) throw new ControlError(400, `${name} is a ${typeof known}`)
    }
    if (Number(switches.time_scale ?? 1) <= 0) throw new ControlError(400, 'time_scale is above 0')
    this.#switches = { ...this.#switches, ...(profile === undefined ? {} : KIND), ...base, ...switches }
    return this.#switches
  }
}

/** From words of the command line, e.g. `real`, `debts=true`, `window=50`. @param {string[]} words @returns {Record<string, unknown>} */
export function readSwitches(words) {
  return Object.fromEntries(words.map((word) => {
    const [name = '', text] = word.split('=')
    if (text === undefined) return ['profile', name]
    const known = KIND[/** @type {keyof Switches} */ (name)]
    return [name, typeof known === 'boolean' ? text === 'true' : typeof known === 'number' ? Number(text) : text]
  }))
}
