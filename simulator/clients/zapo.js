/** zapo-js as a client of the virtual phone. Prints what it sees, as baileys.js does. */
import { createHash } from 'node:crypto'
import { createRequire } from 'node:module'
import https from 'node:https'
import { setTimeout as sleep } from 'node:timers/promises'

const AGAIN_MS = 500
const { PHONE_SOCKET_URL = '', PHONE_ROOT_KEY = '', PHONE_CLIENT_HOME = import.meta.dirname } = process.env
const near = createRequire(`${PHONE_CLIENT_HOME}/package.json`)
/** @type {any} */
const { WaClient, createStore } = await import(near.resolve('zapo-js'))

/** @param {Record<string, unknown>} event */
const tell = (event) => console.log(JSON.stringify(event))

/** The credentials, in memory. @type {unknown} */
let credentials = null
const auth = { load: async () => credentials, save: async (/** @type {unknown} */ given) => void (credentials = given), clear: async () => void (credentials = null) }

const client = new WaClient({
  store: createStore({ backends: { here: { stores: { auth: () => auth }, caches: {} } }, providers: { auth: 'here' } }), sessionId: 'phone', chatSocketUrls: [PHONE_SOCKET_URL],
  testHooks: { noiseRootCa: { publicKey: Buffer.from(PHONE_ROOT_KEY, 'base64'), serial: 0 } },
  proxy: { mediaDownload: https.globalAgent }
})
client.on('auth_qr', (/** @type {any} */ { qr }) => tell({ event: 'qr', qr }))
client.on('connection', async (/** @type {any} */ { status }) => {
  if (status === 'open') tell({ event: 'open' })
  if (status === 'close') await connect()
})
client.on('message', async (/** @type {any} */ { stanzaId: id, message }) => {
  const text = message?.conversation ?? message?.extendedTextMessage?.text
  if (text) tell({ event: 'text', id, text })
  const image = message?.imageMessage
  if (!image) return
  const bytes = await client.mediaTransfer.downloadAndDecrypt({ directPath: image.directPath, hosts: ['mmg.whatsapp.net'], mediaType: 'image', mediaKey: image.mediaKey, fileSha256: image.fileSha256, fileEncSha256: image.fileEncSha256 })
  tell({ event: 'media', id, sha256: createHash('sha256').update(bytes).digest('hex') })
})

async function connect() {
  for (;;) {
    const failed = await client.connect().then(() => false, () => true)
    if (!failed) return
    await sleep(AGAIN_MS)
  }
}
await connect()
setInterval(() => {}, 1 << 30)
