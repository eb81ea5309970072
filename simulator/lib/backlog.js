/**
 * After a login, what waited comes first, in order, marked `offline`; then its end is announced; then live traffic.
 *
 * preview → stanzas → `<ib><offline count>`. If nothing waits, the end comes at once. With the switch `windows`, the
 * backlog comes in parts: the first unasked, the next when the client asks (`offline_batch`). A client that never asks
 * gets the next part when it has answered the last, as whatsmeow does with the real server.
 */
import { setImmediate as yieldLoop } from 'node:timers/promises'
import { sendFirst } from './history.js'
import { node, SERVER } from './stanza.js'

/** @typedef {import('./connection.js').Connection} Connection */

const YIELD_EVERY = 100 // stanzas
const MAX_UNSENT_BYTES = 4 * 1024 * 1024
const DRAIN_LOOK_MS = 5

/** The client has gone active. @param {Connection} connection */
export function announceBacklog(connection) {
  const { phone, line } = connection
  if (!line || connection.state !== 'login' || phone.holdBacklog) return
  connection.become('backlog')
  holdForEver(line)
  const count = String(line.queue.size + Number(phone.faults.take('preview_more')?.extra ?? 0))
  if (count === '0') return void finish(connection)
  connection.send(node('ib', { from: SERVER }, [node('offline_preview', { count, message: count, notification: '0', receipt: '0', appdata: '0' })]))
  const { window, first_window_unasked } = phone.realism.switches
  if (first_window_unasked) allow(connection, window)
}

/** One stanza whose answers do not count: it comes again at each login. @param {import('./line.js').Line} line */
function holdForEver({ phone: { faults }, queue }) {
  const entries = [...queue.entries()]
  const fault = entries.length && faults.take('offline_never_settles')
  const entry = fault && (entries.find(({ node: { attrs } }) => attrs.id === fault.id) ?? entries[0])
  if (entry) entry.forgiven = true
}

/** The client wants more. @param {Connection} connection @param {number} count - of stanzas; not a number: it does not say */
export function askedForBacklog(connection, count) {
  if (connection.state !== 'backlog') return
  connection.asked = true
  const { window } = connection.phone.realism.switches
  allow(connection, Math.min(count || window, 2 * window))
}

/** @param {Connection} connection @param {number} count */
function allow(connection, count) {
  connection.allowed += count
  void deliver(connection)
}

/** Something was answered: what withheld the rest may be gone, or a window settled. @param {Connection} connection */
export function continueBacklog(connection) {
  const { line, phone: { realism: { switches: { window, first_window_unasked } } } } = connection
  if (!line || connection.state !== 'backlog') return
  const waits = first_window_unasked && !connection.asked && connection.allowed === 0 && !line.queue.unsettled
  if (waits) allow(connection, window)
  else if (connection.allowed > 0) void deliver(connection)
}

/** @param {Connection} connection */
async function deliver(connection) {
  const { line, phone: { realism } } = connection
  if (!line || connection.delivering) return
  const { queue } = line
  connection.delivering = true
  while (connection.state === 'backlog' && connection.allowed > 0) {
    const most = realism.switches.windows ? connection.allowed : Infinity
    if (queue.stuck.length) {
      await write(connection, queue.stuck, Infinity)
      if (queue.stuck.length) break
    }
    connection.allowed = 0
    if (!(await write(connection, queue.entries(), most))) finish(connection)
  }
  connection.delivering = false
}

/**
 * @param {Connection} connection @param {Iterable<import('./queue.js').Queued>} entries @param {number} most
 * @returns {Promise<boolean>} whether there are more
 */
async function write(connection, entries, most) {
  let written = 0
  for (const entry of entries) {
    if (connection.state !== 'backlog') return true
    if (entry.sent) continue
    if (written++ >= most) return true
    connection.line?.queue.markSent(entry)
    const { node: stanza } = entry
    connection.send({ ...stanza, attrs: { ...stanza.attrs, offline: String(connection.offlineSent++) } })
    if (connection.offlineSent % YIELD_EVERY === 0) await room(connection)
  }
  return false
}

/** Waits until the socket has taken most of what was written. @param {Connection} connection */
export async function room(connection) {
  await yieldLoop()
  while (connection.backpressure > MAX_UNSENT_BYTES && connection.state !== 'closed') {
    await new Promise((resolve) => setTimeout(resolve, DRAIN_LOOK_MS))
  }
}

/** @param {Connection} connection */
function finish(connection) {
  const { phone, line } = connection
  if (!line || connection.state !== 'backlog' || connection.endWithheld) return
  const unsaid = phone.faults.take('no_offline_end')
  connection.endWithheld = unsaid?.live === false
  if (connection.endWithheld) return
  if (!unsaid) connection.send(node('ib', { from: SERVER }, [node('offline', { count: String(connection.offlineSent) })]))
  connection.become('live')
  phone.log.add('offline_sent', { connection: connection.number, count: connection.offlineSent })
  if (phone.historyAuto && !line.companion.historyReceipted) void sendFirst(line)
}
