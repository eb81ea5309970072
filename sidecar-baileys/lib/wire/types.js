/**
 * The shapes of the wire (docs/protocol.md), checked where documents enter. Tests check the same fixtures
 * (`tests/wire/`) against this table and against the worker's pydantic models, so that the two cannot drift apart.
 */

/** @typedef {(value: any) => boolean} Check */

const isInt = (/** @type {any} */ value) => Number.isSafeInteger(value)
const isCount = (/** @type {any} */ value) => isInt(value) && value >= 0
const isString = (/** @type {any} */ value) => typeof value === 'string'
const isBool = (/** @type {any} */ value) => typeof value === 'boolean'
const isNumber = (/** @type {any} */ value) => Number.isFinite(value)
const isObject = (/** @type {any} */ value) => typeof value === 'object' && value !== null && !Array.isArray(value)
/** @param {Check} check @returns {Check} */
const orNull = (check) => (value) => value === null || check(value)
/** @param {Check} check @returns {Check} */
const optional = (check) => (value) => value === undefined || check(value)
/** @param {Check} check @param {number} [length] @returns {Check} */
const listOf = (check, length) => (value) =>
  Array.isArray(value) && value.every(check) && (length === undefined || value.length === length)
/** @param {Check} check @returns {Check} */
const mapOf = (check) => (value) => isObject(value) && Object.values(value).every(check)
/** @param {Record<string, Check>} fields @returns {Check} */
const shape = (fields) => (value) =>
  isObject(value) && Object.entries(fields).every(([name, check]) => check(value[name]))
/** As `shape`, without further fields. @param {Record<string, Check>} fields @returns {Check} */
const exactly = (fields) => (value) => shape(fields)(value) && Object.keys(value).every((name) => name in fields)
/** @param {...string} names @returns {Check} */
const oneOf = (...names) => (value) => names.includes(value)

const isHash = (/** @type {any} */ value) => isString(value) && /^[0-9a-f]{64}$/.test(value)
const isMe = shape({ id: orNull(isString), lid: orNull(isString), name: orNull(isString) })
const isClose = shape({
  code: orNull(isInt), message: isString, data: orNull(isObject), phase: oneOf('connecting', 'pairing', 'open'),
})

/** What a browser's passkey gives, its binary fields in base64url; nothing else may travel to WhatsApp. @type {Check} */
const isAssertion = exactly({
  id: isString,
  rawId: isString,
  type: oneOf('public-key'),
  response: exactly({
    clientDataJSON: isString, authenticatorData: isString, signature: isString, userHandle: orNull(isString),
  }),
})

/** @type {Check} */
const isStanza = shape({
  attrs: mapOf(isString),
  key: orNull(isObject),
  arrived_at_ms: isCount,
  server_time_offset_ms: orNull(isNumber),
  content: orNull(isObject),
  failure: orNull(isString),
  hashes: listOf(isHash),
  retry_count: isCount,
  unavailable: orNull(isString),
  undecrypted: optional(orNull(isString)),
  wanted: optional(isBool),
})

/** @type {Record<string, Check>} */
const EVENTS = {
  group: shape({ id: isString, subject: optional(isString), left: isBool, admins: optional(listOf(isString)) }),
  admins: shape({ id: isString, promoted: listOf(isString), demoted: listOf(isString) }),
  identity: shape({ lid: isString, pn: isString }),
  resend: shape({ key: isObject, content: isObject, t: isString, push_name: orNull(isString) }),
  notice: shape({ key: isObject, notices: listOf(isObject), t: isString }),
  system: shape({ key: isObject, stub_type: isString, stub_parameters: listOf(isString), t: isString }),
}
/** @type {Check} */
const isEvent = (value) => isObject(value) && value.type in EVENTS && EVENTS[value.type](value)

/** Parameters of every method, in both directions. @type {Record<string, Check>} */
export const PARAMS = {
  connect: exactly({
    epoch: (value) => isInt(value) && value >= 1,
    browser: listOf(isString, 3),
    version: orNull(listOf(isCount, 3)),
    socket_url: orNull(isString),
    root_key: orNull(isString),
    offline_hold_ms: isCount,
    strict_certs: isBool,
    nack_undecryptable: isBool,
    max_log_bytes: (value) => isInt(value) && value > 0,
    qr_timeout_ms: orNull(isCount),
    keep_alive_ms: orNull(isCount),
    suspects: optional((value) =>
      mapOf(oneOf('alone', 'unread'))(value) && Object.keys(value).every(isHash)),
  }),
  monitor: exactly({ groups: listOf(isString) }),
  close: exactly({ logout: isBool, drain_ms: isCount }),
  pairing_code: exactly({ phone: (value) => isString(value) && /^\d{6,15}$/.test(value) }),
  passkey_options: isObject,
  passkey_assertion: exactly({ assertion: isAssertion }),
  passkey_confirm: isObject,
  groups: exactly({ members_of: optional(listOf(isString)) }),
  media_refresh: shape({ key: isObject, content: isObject }),
  media_hosts: isObject,
  ping: isObject,
  'state.load': isObject,
  'state.get': shape({ type: isString, ids: listOf(isString) }),
  'stanzas.known': shape({ hashes: listOf(isHash) }),
  commit: shape({
    epoch: (value) => isInt(value) && value >= 1,
    seq: (value) => isInt(value) && value >= 1,
    creds: optional(isString),
    keys: optional(mapOf(mapOf(orNull(isString)))),
    stanzas: listOf(isStanza),
    events: listOf(isEvent),
  }),
  qr: shape({ qr: orNull(isString), ttl_ms: isCount, retired: optional(isBool) }),
  pairing_code_retired: shape({ by_hand: isBool }),
  passkey_requested: shape({ options: orNull(isObject) }),
  passkey_code: shape({ code: isString }),
  passkey_failed: shape({ step: isString, status: orNull(isInt) }),
  connection: (value) =>
    shape({ state: oneOf('connecting', 'open', 'close') })(value) &&
    (value.state !== 'open' || shape({ me: isMe, server_time_offset_ms: orNull(isNumber) })(value)) &&
    (value.state !== 'close' || shape({ close: isClose })(value)),
  offline: shape({ count: isCount }),
  arrived: shape({
    server_time_offset_ms: orNull(isNumber),
    stanzas: listOf(shape({ attrs: mapOf(isString), at_ms: isCount })),
  }),
  stalled: shape({ reason: isString, detail: isObject }),
}

const isMember = shape({ id: isString, also: orNull(isString), role: oneOf('member', 'admin', 'superadmin') })
const isGroup = shape({
  id: isString, subject: isString, addressing_mode: orNull(isString), size: orNull(isCount), admins: listOf(isString),
  members: optional(orNull(listOf(isMember))),
})

const FIGURES = [
  'rss_bytes', 'heap_bytes', 'log_items', 'log_bytes', 'log_bytes_max', 'held_frames', 'longest_hold_ms',
  'open_sections', 'loop_lag_ms', 'stanzas_in', 'stanzas_out', 'swallowed',
]

/** Results of every request, in both directions. @type {Record<string, Check>} */
export const RESULTS = {
  connect: exactly({ version: listOf(isCount, 3) }),
  monitor: isObject,
  close: shape({ pending: isCount }),
  pairing_code: shape({ code: isString, ttl_ms: isCount }),
  passkey_options: shape({ options: orNull(isObject) }),
  passkey_assertion: isObject,
  passkey_confirm: isObject,
  groups: shape({ groups: listOf(isGroup), asked_at_ms: isNumber }),
  media_refresh: shape({ content: isObject }),
  media_hosts: shape({ hosts: listOf(isString), ttl_s: isNumber }),
  ping: shape({
    ...Object.fromEntries(FIGURES.map((figure) => [figure, isNumber])),
    stuck_ms: orNull(isNumber),
    stuck_hash: orNull(isHash),
    last_stanza_at_ms: orNull(isNumber),
    last_group_stanza_at_ms: orNull(isNumber),
    complete: orNull(shape({ epoch: isCount, to_ms: isNumber })),
  }),
  'state.load': shape({ creds: orNull(isString) }),
  'state.get': shape({ values: mapOf(isString) }),
  'stanzas.known': shape({ known: listOf(isHash) }),
  commit: shape({ seq: isCount }),
}

const isReason = oneOf('unavailable', 'stale', 'unreadable')

/** `data` of an error, where there is any. @type {Check} */
export const ERROR_DATA = optional((value) => isObject(value) && optional(isReason)(value.reason))
