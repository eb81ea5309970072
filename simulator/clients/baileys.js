/**
 * Baileys, or a fork of it, as a client of the virtual phone: `node baileys.js PACKAGE`. Prints what it sees, a line of JSON each:
 * `{event: "qr", qr}`, `{event: "open"}`, `{event: "text", id, text}`, `{event: "media", id, sha256}`.
 */
import { createHash } from 'node:crypto'
import { createRequire } from 'node:module'
import { setTimeout as sleep } from 'node:timers/promises'

const AGAIN_MS = 500
const say = console.log
for (const level of /** @type {const} */ (['info', 'warn', 'error', 'log'])) console[level] = () => {} // libsignal prints keys
for (const event of ['unhandledRejection', 'uncaughtException']) process.on(event, (/** @type {unknown} */ error) => process.stderr.write(`${event}: ${error}\n`))

/** @param {Record<string, unknown>} event */
const tell = (event) => say(JSON.stringify(event))
const { PHONE_SOCKET_URL, PHONE_ROOT_KEY = '', PHONE_CLIENT_HOME = import.meta.dirname } = process.env

const name = process.argv[2] ?? 'baileys'
const near = createRequire(`${PHONE_CLIENT_HOME}/package.json`)
/** @type {any} */
const client = await import(near.resolve(name))
/** @type {any} the module of WA_CERT_DETAILS, which most versions do not export */
const defaults = await import(near.resolve(`${name}/lib/Defaults/index.js`))
const trusted = defaults.WA_CERT_DETAILS ?? defaults.default?.WA_CERT_DETAILS
if (trusted) trusted.PUBLIC_KEY = Buffer.from(PHONE_ROOT_KEY, 'base64')
const makeWASocket = client.makeWASocket ?? client.default?.default ?? client.default

const store = new Map()
const creds = (client.initAuthCreds ?? client.default.initAuthCreds)()
const keys = {
  /** @param {string} type @param {string[]} ids */
  get: async (type, ids) => Object.fromEntries(ids.flatMap((id) => (store.has(`${type}-${id}`) ? [[id, store.get(`${type}-${id}`)]] : []))),
  /** @param {Record<string, Record<string, unknown>>} data */
  set: async (data) => {
    for (const [type, entries] of Object.entries(data)) {
      for (const [id, value] of Object.entries(entries)) value ? store.set(`${type}-${id}`, value) : store.delete(`${type}-${id}`)
    }
  }
}

const silent = { level: 'silent', child: () => silent, trace() {}, debug() {}, info() {}, warn() {}, error() {}, fatal() {} }

function connect() {
  const socket = makeWASocket({ auth: { creds, keys }, waWebSocketUrl: PHONE_SOCKET_URL, logger: silent, syncFullHistory: false, markOnlineOnConnect: false, getMessage: async () => undefined })
  socket.ev.on('creds.update', (/** @type {object} */ update) => Object.assign(creds, update))
  socket.ev.on('messages.upsert', (/** @type {any} */ { messages }) => messages.forEach(read))
  socket.ev.on('connection.update', async (/** @type {any} */ { qr, connection }) => {
    if (qr) tell({ event: 'qr', qr })
    if (connection === 'open') tell({ event: 'open' })
    if (connection === 'close') await sleep(AGAIN_MS).then(connect)
  })
}

/** @param {any} received */
async function read({ key: { id }, message }) {
  const text = message?.conversation ?? message?.extendedTextMessage?.text
  if (text) tell({ event: 'text', id, text })
  const image = message?.imageMessage
  if (!image) return
  const download = client.downloadContentFromMessage ?? client.default.downloadContentFromMessage
  const hash = createHash('sha256')
  for await (const part of await download(image, 'image')) hash.update(part)
  tell({ event: 'media', id, sha256: hash.digest('hex') })
}

connect()
setInterval(() => {}, 1 << 30)
