/** What the server does with each thing that a client sends: one flat switch per level. */
import { Companion } from './companion.js'
import { wrongInAck } from './answers.js'
import { announceBacklog, askedForBacklog, continueBacklog } from './backlog.js'
import { collectDebts } from './debts.js'
import { within } from './limits.js'
import { answerQuery } from './queries.js'
import { offerQr } from './pairing.js'
import { answerRetry, answerMediaRetry, readClientMessage } from './retry.js'
import { child, children, node } from './stanza.js'
import { userOf } from './queue.js'

/** @typedef {import('./connection.js').Connection} Connection */
/** @typedef {import('./stanza.js').Node} Node */

/**
 * The client has identified itself.
 * @param {Connection} connection @param {import('baileys').proto.ClientPayload} payload @param {Buffer} clientStatic
 */
function onPayload(connection, payload, clientStatic) {
  const { world } = connection.phone
  const fault = world.faults.take('failure')
  if (fault) return refuseLogin(connection, String(fault.reason ?? 500), fault.attrs)
  connection.version = versionOf(payload)
  if (payload.devicePairingData) return register(connection, payload.devicePairingData, clientStatic)
  const line = world.lines.find(({ companion }) => companion.noiseKey.equals(clientStatic) && userOf(companion.jid) === String(payload.username) && companion.device === payload.device)
  if (line) connection.phone = line.phone
  const { logins_per_minute } = world.realism.switches
  if (!within(connection.phone.recentLogins, logins_per_minute, world.realism.ms('minute_ms'))) return refuseLogin(connection, '503')
  if (!line) return refuseLogin(connection, '401')
  const passive = payload.passive ?? false
  world.log.add('login', { connection: connection.number, passive, device: payload.device, version: connection.version })
  login(connection, line)
  if (!passive) announceBacklog(connection)
}

/** @param {import('baileys').proto.ClientPayload} payload */
function versionOf({ userAgent }) {
  const { primary, secondary, tertiary } = userAgent?.appVersion ?? {}
  return [primary, secondary, tertiary].join('.')
}

/** @param {Connection} connection @param {string} reason @param {Record<string, string>} [attrs] */
function refuseLogin(connection, reason, attrs) {
  connection.phone.log.add('login_refused', { connection: connection.number, reason })
  connection.send(node('failure', { reason, location: 'sim', ...attrs }))
  connection.finish()
}

/** @param {Connection} connection @param {import('baileys').proto.ClientPayload.IDevicePairingRegistrationData} data @param {Buffer} clientStatic */
function register(connection, data, clientStatic) {
  const { phone } = connection
  connection.candidate = new Companion(phone.world.pairings + 1, clientStatic, data)
  phone.log.add('registration', { connection: connection.number, platform: connection.candidate.platform, device_type: connection.candidate.deviceType })
  connection.become('qr')
  if (!phone.faults.take('no_qr')) offerQr(connection)
  if (phone.faults.take('success_before_pairing')) connection.send(successNode('1000@lid'))
}

/** @param {Connection} connection @param {import('./line.js').Line} line */
function login(connection, line) {
  const { phone } = line
  const earlier = line.online
  connection.line = line
  line.online = connection
  line.queue.forgetSent()
  if (earlier) earlier.streamError(node('conflict', { type: 'replaced' }))
  phone.logins++
  connection.become('login')
  collectDebts(connection)
  connection.send(successNode(line.companion.lid))
}

/** @param {string} lid */
const successNode = (lid) => node('success', { t: String(Math.floor(Date.now() / 1000)), lid, props: '27', location: 'sim' })

/** @param {Connection} connection @param {Node} stanza */
function onStanza(connection, stanza) {
  const { phone } = connection
  switch (stanza.tag) {
    case 'iq':
      return answerQuery(connection, stanza)
    case 'receipt':
      return onReceipt(connection, stanza)
    case 'ack':
      return onAck(connection, stanza)
    case 'message':
      return readClientMessage(connection, stanza)
    case 'presence':
      return void phone.log.add('presence', { connection: connection.number, type: stanza.attrs.type ?? 'available', name: stanza.attrs.name })
    case 'ib':
      return onInfo(connection, stanza)
    default:
      phone.log.add('unknown_stanza', { connection: connection.number, tag: stanza.tag, attrs: stanza.attrs })
  }
}

/** @param {Connection} connection @param {Node} stanza */
function onInfo(connection, stanza) {
  const [first] = children(stanza)
  connection.phone.log.add(first?.tag === 'offline_batch' ? 'offline_batch' : 'info', { connection: connection.number, tag: first?.tag, attrs: first?.attrs })
  if (first?.tag === 'offline_batch') askedForBacklog(connection, Number(first.attrs.count))
}

/** @param {Connection} connection @param {Node} stanza */
function onReceipt(connection, stanza) {
  const { phone, line } = connection
  const { attrs } = stanza
  if (dropInstead(connection)) return
  const kind = attrs.type === 'retry' ? 'retry' : attrs.type === 'server-error' ? 'server_error' : 'receipt'
  const more = children(child(stanza, 'list')).map((item) => item.attrs.id)
  for (const id of [attrs.id, ...more]) {
    phone.receipts.add(kind, { id, to: attrs.to, participant: attrs.participant ?? null, recipient: attrs.recipient ?? null, type: attrs.type ?? null, error: null, class: null, count: child(stanza, 'retry')?.attrs.count ?? null, device: line?.companion.device ?? null })
    if (kind === 'receipt' && attrs.type !== 'hist_sync') line?.queue.settle({ ...stanza, attrs: { ...attrs, id: id ?? '' } })
  }
  if (line && (attrs.type === 'hist_sync' || attrs.type === 'peer_msg')) line.companion.historyReceipted = true
  if (kind === 'retry') line?.queue.markFailed(stanza)
  continueBacklog(connection)
  connection.send(node('ack', { class: 'receipt', id: attrs.id, from: attrs.to, type: attrs.type, participant: attrs.participant }))
  if (kind === 'retry') answerRetry(connection, stanza)
  if (kind === 'server_error') answerMediaRetry(connection, stanza)
}

/** @param {Connection} connection */
function dropInstead(connection) {
  const { faults, log } = connection.phone
  const fault = faults.has('drop_before_read')
  if (!fault || --fault.after > 0) return false
  faults.take('drop_before_read')
  log.add('fault', { fault: 'drop_before_read', connection: connection.number })
  connection.reset()
  return true
}

/** @param {Connection} connection @param {Node} stanza */
function onAck(connection, stanza) {
  const { phone, line } = connection
  const { attrs } = stanza
  phone.receipts.add(attrs.error ? 'nack' : 'ack', { id: attrs.id, to: attrs.to, participant: attrs.participant ?? null, recipient: attrs.recipient ?? null, type: attrs.type ?? null, error: attrs.error ?? null, class: attrs.class ?? null, device: line?.companion.device ?? null })
  if (attrs.class === 'notification') connection.gate?.noteAck(attrs)
  if (!line) return
  const wrong = phone.realism.switches.strict_acks ? wrongAck(line, attrs) : null
  if (wrong) return void phone.log.add('bad_ack', { connection: connection.number, id: attrs.id, class: attrs.class ?? null, wrong })
  if (attrs.error) line.queue.settleNack(stanza, { sticks: Boolean(phone.faults.has('nack_sticks')) })
  else if (attrs.class === 'message') line.queue.settleNack(stanza)
  else line.queue.settle(stanza)
  continueBacklog(connection)
}

/** What keeps an ack from settling anything: null if it fits one of the stanzas that wait for it, or none waits. @param {import('./line.js').Line} line @param {Record<string, string>} attrs */
function wrongAck({ queue }, attrs) {
  const reasons = queue.unanswered(attrs.id).map(({ node: waiting }) => wrongInAck(waiting, attrs))
  return reasons.length && !reasons.includes(null) ? reasons[0] : null
}

/** @param {Connection} connection */
function onClose(connection) {
  const { line, phone } = connection
  if (line?.online !== connection) return
  line.online = null
  line.queue.forgetSent()
  phone.changes.emit('change')
}

export const handlers = { onPayload, onStanza, onClose }

