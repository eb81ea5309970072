/**
 * After a login: what waited comes first, in order, marked `offline`; then its end is announced; then live traffic.
 *
 * preview → (the client asks for a batch) → stanzas → `<ib><offline count>`. With nothing waiting the end comes at once.
 */
import { setImmediate as yieldLoop } from 'node:timers/promises'
import { sendHistory } from './history.js'
import { node, SERVER } from './stanza.js'

/** @typedef {import('./connection.js').Connection} Connection */

const YIELD_EVERY = 100 // stanzas
const MAX_UNSENT_BYTES = 4 * 1024 * 1024
const DRAIN_LOOK_MS = 5

/** The client has gone active. @param {Connection} connection */
export function announceBacklog(connection) {
  const { phone } = connection
  if (connection.state !== 'login' || phone.holdBacklog) return
  connection.become('backlog')
  const count = String(phone.queue.size)
  if (count === '0') return void finish(connection)
  connection.send(node('ib', { from: SERVER }, [node('offline_preview', { count, message: count, notification: '0', receipt: '0', appdata: '0' })]))
}

/** The client has asked for it. @param {Connection} connection */
export function startBacklog(connection) {
  if (connection.state === 'backlog' && !connection.offlineSent) void deliver(connection)
}

/** @param {Connection} connection */
async function deliver(connection) {
  for (const entry of connection.phone.queue.entries()) {
    if (connection.state !== 'backlog') return
    if (entry.sent) continue
    entry.sent = true
    const { node: stanza } = entry
    connection.send({ ...stanza, attrs: { ...stanza.attrs, offline: String(connection.offlineSent++) } })
    if (connection.offlineSent % YIELD_EVERY === 0) await room(connection)
  }
  finish(connection)
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
  const { phone } = connection
  if (connection.state !== 'backlog') return
  connection.send(node('ib', { from: SERVER }, [node('offline', { count: String(connection.offlineSent) })]))
  connection.become('live')
  phone.log.add('offline_sent', { connection: connection.number, count: connection.offlineSent })
  if (phone.historyAuto && phone.companion && !phone.companion.historyReceipted) void sendHistory(phone, {})
}
