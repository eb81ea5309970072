/**
 * What the client owes: an answer to every stanza that was written to it. The server waits about 50 minutes (`debt_s`).
 * Then the stream ends with `<stream:error><ack …/>`, and the stanza comes again at the next login.
 */
import { node } from './stanza.js'

const LOOKS_PER_TERM = 10
const MAX_LOOK_MS = 5_000
const MIN_LOOK_MS = 10

/** Looks for overdue answers while this connection lives. @param {import('./connection.js').Connection} connection */
export function collectDebts(connection) {
  const { phone, line } = connection
  const every = () => Math.max(MIN_LOOK_MS, Math.min(MAX_LOOK_MS, phone.realism.patienceMs / LOOKS_PER_TERM))
  const look = () => {
    if (!line || connection.state === 'closed' || line.online !== connection) return
    const due = overdue(line)
    if (due) return endStream(connection, due)
    setTimeout(look, every()).unref()
  }
  setTimeout(look, every()).unref()
}

/** @param {import('./line.js').Line} line */
function overdue({ phone, queue }) {
  if (!phone.realism.switches.debts) return undefined
  const before = performance.now() - phone.realism.patienceMs
  return [...queue.entries()].find(({ sent, sentAt, forgiven }) => sent && !forgiven && sentAt <= before)
}

/** @param {import('./connection.js').Connection} connection @param {import('./queue.js').Queued} entry */
function endStream(connection, { node: { tag, attrs } }) {
  const { id, from, type, participant } = attrs
  connection.phone.log.add('debt', { connection: connection.number, tag, id, type: type ?? null, from, participant: participant ?? null })
  connection.streamError(node('ack', { class: tag, id, from, type, participant }))
}
