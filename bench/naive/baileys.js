/** A Baileys socket that connects again by itself, and one JSON line on stdout for each event. */
import { makeWASocket, WA_CERT_DETAILS } from 'baileys'
import pino from 'pino'

const AGAIN_MS = 200

/** @param {string} event @param {object} [more] */
export const tell = (event, more = {}) => process.stdout.write(`${JSON.stringify({ event, at_ms: Date.now(), ...more })}\n`)

/**
 * @param {{auth: any, saveCreds: (update: any) => unknown, messages: (messages: any[]) => unknown}} parts
 */
export function connect(parts) {
  WA_CERT_DETAILS.PUBLIC_KEY = Buffer.from(process.env.WA_ROOT_KEY ?? '', 'base64')
  const { ev } = makeWASocket({
    auth: parts.auth, waWebSocketUrl: process.env.WA_SOCKET_URL, logger: /** @type {any} */ (pino({ level: 'silent' })),
    markOnlineOnConnect: false, syncFullHistory: false, getMessage: async () => undefined,
  })
  ev.on('creds.update', (update) => void parts.saveCreds(update))
  ev.on('messages.upsert', ({ messages }) => void parts.messages(messages))
  ev.on('connection.update', ({ qr, connection }) => {
    if (qr) tell('qr', { qr })
    if (connection) tell(connection)
    if (connection === 'close') setTimeout(() => connect(parts), AGAIN_MS)
  })
}
