/** The stock, unpatched Baileys with credentials in memory: what the virtual phone must satisfy. */
import { EventEmitter, once } from 'node:events'
import { initAuthCreds, makeWASocket, proto, WA_CERT_DETAILS } from 'baileys'
import pino from 'pino'
import { PATIENCE_MS } from './program.js'

/** @typedef {{socket_url: string, root_key: string}} Server */

// libsignal writes sessions, keys included, to the console whenever one is replaced
for (const level of /** @type {const} */ (['info', 'warn', 'error'])) console[level] = () => {}

/** Lines that stock Baileys logs whatever the server does, each with the reason why it proves nothing. */
const UNCONDITIONAL = /** @type {RegExp[]} */ ([])

/** Keys and credentials that outlive sockets, as a file or database would. */
export function makeAuth() {
  /** @type {Map<string, any>} */
  const store = new Map()
  return {
    creds: initAuthCreds(),
    keys: {
      /** @param {string} type @param {string[]} ids */
      get: async (type, ids) => Object.fromEntries(ids.flatMap((id) => (store.has(`${type}-${id}`) ? [[id, store.get(`${type}-${id}`)]] : []))),
      /** @param {Record<string, Record<string, any>>} data */
      set: async (data) => {
        for (const [type, entries] of Object.entries(data)) {
          for (const [id, value] of Object.entries(entries)) value ? store.set(`${type}-${id}`, value) : store.delete(`${type}-${id}`)
        }
      }
    }
  }
}

export class Client {
  /** @type {{level: number, msg: string}[]} what it logged at warn and above */
  complaints = []
  /** @type {any[]} */
  upserts = []
  /** @type {Record<string, string>[]} attributes of the raw message stanzas, as they came */
  stanzas = []
  /** @type {any[]} */
  groupUpdates = []
  /** names of contacts, by address @type {Map<string, string | undefined>} */
  contacts = new Map()
  events = new EventEmitter().setMaxListeners(0)
  /** @type {any} */
  lastClose = null
  qr = ''
  open = false

  /** @param {Server} server @param {ReturnType<typeof makeAuth>} [auth] @param {Record<string, any>} [options] */
  constructor(server, auth = makeAuth(), options = {}) {
    WA_CERT_DETAILS.PUBLIC_KEY = Buffer.from(server.root_key, 'base64')
    this.server = server
    this.auth = auth
    this.options = options
    this.connect()
  }

  connect() {
    const logger = pino({ level: 'warn' }, { write: (/** @type {string} */ line) => void this.complaints.push(JSON.parse(line)) })
    this.sock = makeWASocket({
      auth: /** @type {any} */ (this.auth), waWebSocketUrl: this.server.socket_url, logger: /** @type {any} */ (logger), markOnlineOnConnect: false, syncFullHistory: false, ...this.options
    })
    const { ev } = this.sock
    this.sock.ws.on('CB:message', ({ attrs }) => this.#note(() => this.stanzas.push(attrs)))
    ev.on('creds.update', (update) => void Object.assign(this.auth.creds, update))
    ev.on('messages.upsert', ({ messages, type }) => this.#note(() => this.upserts.push(...messages.map((message) => ({ ...message, upsertType: type })))))
    ev.on('contacts.upsert', (found) => this.#note(() => found.forEach(({ id, name }) => this.contacts.set(id, name))))
    ev.on('groups.update', (updates) => this.#note(() => this.groupUpdates.push(...updates)))
    ev.on('connection.update', (update) => this.#note(() => {
      if (update.qr) this.qr = update.qr
      if (update.connection === 'open') this.open = true
      if (update.connection === 'close') {
        this.open = false
        this.lastClose = update.lastDisconnect?.error ?? null
        this.events.emit('closed')
      }
    }))
  }

  /** @param {() => void} change */
  #note(change) {
    change()
    this.events.emit('change')
  }

  /** @template T @param {() => T | undefined | false | null | ''} predicate @param {string} what @returns {Promise<T>} */
  async until(predicate, what, timeoutMs = PATIENCE_MS) {
    const signal = AbortSignal.timeout(timeoutMs)
    for (;;) {
      const found = predicate()
      if (found) return found
      await once(this.events, 'change', { signal }).catch(() => { throw new Error(`${what}: not within ${timeoutMs} ms; complaints: ${JSON.stringify(this.complaints).slice(0, 2000)}`) })
    }
  }

  /** @param {string} id @returns {Promise<any>} the first upsert of this id that has content */
  message(id, timeoutMs = PATIENCE_MS) {
    return this.until(() => this.upserts.find((one) => one.key.id === id && one.message), `message ${id}`, timeoutMs)
  }

  /** Resolves when the socket has closed; says why. @returns {Promise<any>} */
  closed() {
    return this.until(() => this.lastClose && { code: this.lastClose.output?.statusCode, message: this.lastClose.message }, 'close')
  }

  /** A new socket with the same credentials. */
  reconnect() {
    this.lastClose = null
    this.qr = ''
    this.connect()
  }

  get unexpected() {
    return this.complaints.filter(({ msg }) => !UNCONDITIONAL.some((pattern) => pattern.test(msg)))
  }

  async end() {
    await this.sock?.end(undefined)
  }
}

/** From nothing to logged in. @param {import('./program.js').Program} phone @param {Record<string, any>} [options] */
export async function pairedClient(phone, options) {
  const client = new Client(phone.endpoints, makeAuth(), options)
  const qr = await client.until(() => client.qr, 'QR')
  await phone.post('/scan', { qr })
  const close = await client.closed()
  if (close.code !== 515) throw new Error(`closed with ${close.code} ${close.message}`)
  client.complaints = client.complaints.filter(({ msg }) => msg !== 'stream errored out') // 515 is how pairing ends
  client.reconnect()
  await client.until(() => client.open, 'open')
  await phone.post('/wait', { for: 'connected' })
  return client
}

export { proto }
