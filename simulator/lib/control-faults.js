/** Carries out the fault calls of the control API, at once or at the next opportunity. */
import { CHAIN_FAULTS } from './certificates.js'
import { ControlError } from './errors.js'
import { continueBacklog } from './backlog.js'
import { retireQr } from './pairing.js'
import { node } from './stanza.js'

/** @typedef {import('./phone.js').Phone} Phone */

const WAITING = ['drop_before_read', 'http_status', 'failure', 'garbage_handshake', 'foreign_root', 'no_qr', 'rate_limit_groups', 'iq_error', 'iq_silence', 'mute', 'slow', 'deaf', 'senders_silent', ...CHAIN_FAULTS, 'refresh_at_scan', 'success_before_pairing', 'no_offline_end', 'offline_never_settles', 'preview_more', 'nack_sticks']
const HOUR_MS = 3_600_000
const VERSION_OUTDATED = 405

/** @param {Phone} phone @param {Record<string, any>} request */
export async function makeFault(phone, request) {
  const { kind } = request
  if (kind === 'clear') return clear(phone)
  phone.log.add('fault', { fault: kind, ...request, kind: 'fault' })
  const done = await act(phone, request)
  if (!done) add(phone, request)
  return { active: phone.faults.active }
}

/** What happens at once. @param {Phone} phone @param {Record<string, any>} request @returns {Promise<boolean>} */
async function act(phone, request) {
  const { online } = phone.line(request.device) ?? {}
  switch (request.kind) {
    case 'stream_error':
      present(phone, request).streamError(node(request.text ?? 'ack'), { code: String(request.code ?? 500) })
      return true
    case 'conflict':
      conflict(present(phone, request), request.type ?? 'replaced')
      return true
    case 'close':
      present(phone, request).ws.close(request.code ?? 1000)
      return true
    case 'xmlstreamend':
      present(phone, request).send(node('xmlstreamend'))
      return true
    case 'corrupt_frame':
      present(phone, request).sendGarbage()
      return true
    case 'drop':
      if (request.after !== undefined) phone.faults.add(request)
      else present(phone, request).reset()
      return true
    case 'refuse':
      await phone.world.listening?.(!request.on)
      return true
    case 'retire_qr':
      retireQr(phone, request)
      return true
    case 'deaf_connection':
      present(phone, request).deaf = request.groups ? 'groups' : 'all'
      return true
    case 'flagged':
      flag(phone, Number(request.hours ?? 24))
      return true
    case 'deaf':
      online?.socket.pause()
      return false
    default:
      return false
  }
}

/** The account is restricted: its device is removed, and the phone links none. @param {Phone} phone @param {number} hours */
function flag(phone, hours) {
  phone.restrictedUntil = Date.now() + hours * HOUR_MS
  removeDevices(phone, phone.lines, { expire: String(hours * HOUR_MS / 1000) })
}

/** The phone unlinks devices. @param {Phone} phone @param {import('./line.js').Line[]} lines @param {Record<string, string>} [more] attributes of what they are told */
export function removeDevices(phone, lines, more) {
  for (const line of [...lines]) {
    phone.unlink(line)
    if (line.online) conflict(line.online, 'device_removed', more)
  }
}

/**
 * A removed device gets code 401; a replaced one gets no code (clients make it 440).
 * @param {import('./connection.js').Connection} connection @param {string} type
 * @param {Record<string, string>} [more] attributes
 */
export function conflict(connection, type, more) {
  connection.streamError(node('conflict', { type, ...more }), type === 'device_removed' ? { code: '401' } : undefined)
}

/** The connection that a fault is done to: the logged-in one, else any. @param {Phone} phone @param {{device?: number}} request */
function present(phone, { device }) {
  const connection = phone.line(device)?.online ?? [...phone.connections].at(-1)
  if (!connection) throw new ControlError(409, 'no client is connected')
  return connection
}

/** @param {Phone} phone @param {Record<string, any>} request */
function add(phone, request) {
  if (request.kind === 'http_503') return void phone.faults.add({ ...request, kind: 'http_status', status: 503 })
  if (request.kind === 'version_outdated') return void phone.faults.add({ ...request, kind: 'failure', reason: VERSION_OUTDATED })
  if (!WAITING.includes(request.kind)) throw new ControlError(400, `no fault ${request.kind}`)
  phone.faults.add(request.kind === 'drop_before_read' ? { after: 1, ...request } : request)
}

/** @param {Phone} phone */
async function clear(phone) {
  phone.faults.clear()
  phone.restrictedUntil = 0
  for (const { queue, online } of phone.world.lines) {
    queue.release()
    if (!online) continue
    online.deaf = ''
    continueBacklog(online)
  }
  await phone.world.listening?.(true)
  for (const connection of phone.connections) {
    connection.socket.resume()
    void connection.drain()
  }
  return { active: [] }
}

const MEDIA_MODES = ['down', '404', '410', '403', '503', 'stall', 'drop', 'truncate', 'flip', 'wrong_hash', 'redirect', 'slow', 'endless', 'reupload_not_found', 'reupload_silence']

/** @param {Phone} phone @param {{id?: string, path?: string, host?: string, mode: string | number, times?: number, ms?: number, to?: string}} request */
export function makeMediaFault(phone, { id, path, host, mode, times = 1, ms = 0, to }) {
  if (mode === 'clear') {
    phone.media.faults = []
    return { faults: [] }
  }
  if (!MEDIA_MODES.includes(String(mode))) throw new ControlError(400, `no media fault ${mode}`)
  const message = id && [...phone.sent.values()].findLast((one) => one.id === id)
  if (id && !(message && message.blob)) throw new ControlError(404, `no media message ${id}`)
  const where = message ? message.blob?.directPath : path
  phone.media.faults.push({ path: where?.split('?')[0], host, mode: String(mode), times, ms, to })
  return { faults: phone.media.faults }
}
