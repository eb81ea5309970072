/**
 * One Baileys socket, wired so that everything durable passes the gate.
 *
 * Hooks into the stock Baileys at five places, each found and tried in FACTS §1: the raw stanza (`ws.emit`), the
 * decryption (`makeSignalRepository`), the key store with its transactions, the emitter (`ev.emit`), and the bytes on
 * their way out (`ws.socket.send`). It never edits Baileys' files.
 */
import { randomBytes } from 'node:crypto'
import { uptime } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { Boom } from '@hapi/boom'
import { areJidsSameUser, Curve, DEFAULT_CONNECTION_CONFIG, initAuthCreds, makeWASocket, proto, S_WHATSAPP_NET, WA_CERT_DETAILS } from 'baileys'
import { sharedCaches } from './caches.js'
import { Gate } from '../log/gate.js'
import { Inbox } from '../log/inbox.js'
import { KeyStore } from '../log/keys.js'
import { toWireEvents } from './events.js'
import { Qr } from './qr.js'
import { reviveCreds, serialiseCreds } from './serial.js'
import { Sections } from '../log/sections.js'
import { Stanza } from './stanza.js'
import { Throttle } from '../log/throttle.js'
import { Transactions } from '../log/transactions.js'

/** How long an end waits for a peer that may no longer be there; `ws` itself would wait 30 s. */
const CLOSE_PATIENCE_MS = 2_000

/**
 * @typedef {import('../wire/types.js').ConnectParams} ConnectParams
 * @typedef {object} SocketHooks
 * @property {(batch: import('../log/gate.js').Batch) => Promise<void>} commit
 * @property {(type: string, ids: string[]) => Promise<Record<string, string>>} getKeys
 * @property {(hashes: string[]) => Promise<string[]>} known
 * @property {(method: string, params: object) => void} notify
 * @property {import('pino').Logger} logger
 */

export class Connection {
  /** @type {any} */
  #raw = null
  /** @type {Throttle} */
  #throttle
  /** @type {Qr} */
  #qr
  /** @type {Sections} */
  #sections
  #transactions = new Transactions((data) => this.keys.set(data))
  #activeReceipts = false
  #pairing = false
  #opened = false
  #handshaking = true
  /** WhatsApp's clock when this machine's uptime was 0, milliseconds @type {number | null} */
  #serverStart = null
  #endReason = /** @type {Error | undefined} */ (undefined)

  stanzasIn = 0
  stanzasOut = 0
  lastStanzaAt = 0

  /**
   * @param {ConnectParams} params
   * @param {string | null} creds serialised, null for a new account
   * @param {SocketHooks} hooks
   * @throws {Error} if the credentials are torn
   */
  constructor(params, creds, hooks) {
    this.params = params
    this.hooks = hooks
    this.creds = creds === null ? initAuthCreds() : reviveCreds(creds)
    // A pairing code that nobody typed leaves a name behind, and with a name Baileys would log in instead of registering.
    if (!this.creds.account) Object.assign(this.creds, { me: undefined, registered: false })
    this.#qr = new Qr({ ttlMs: params.qr_timeout_ms, notify: hooks.notify })
    this.closed = new Promise((resolve) => (this.#resolveClosed = resolve))
    this.gate = new Gate({
      commit: (batch) => hooks.commit(batch),
      write: (frame) => this.#write(frame),
      onDurable: (number) => this.keys.durable(number),
      onFailure: (error) => this.end(error),
      onDepth: () => this.#throttle.regulate(),
    })
    this.#sections = new Sections({
      gate: this.gate,
      keys: () => this.keys,
      onOpen: () => this.#throttle.regulate(),
      onJournaled: (stanza) => {
        this.stanzasOut += 1
        this.inbox.settled(stanza, stanza.hashes)
        this.#throttle.regulate()
      },
    })
    this.#throttle = new Throttle({
      load: () => ({ bytes: this.gate.bytes, waiting: this.inbox.waiting, openSections: this.gate.openSections, settled: this.stanzasOut }),
      pause: () => this.#raw.pause(),
      resume: () => { if (!this.inbox.closed) this.#raw.resume() },
      maxBytes: params.max_log_bytes,
    })
    this.keys = new KeyStore({
      read: (type, ids) => hooks.getKeys(type, ids),
      journal: (changes) => this.#sections.journalKeys(changes),
      onReadFailure: (error) => this.gate.fail(error),
    })
    this.inbox = new Inbox({
      known: (hashes) => hooks.known(hashes).catch((error) => {
        this.gate.fail(error)
        throw error
      }),
      deliver: (stanza) => this.#deliver(stanza),
      swallow: (stanza) => this.#swallow(stanza),
      holdMs: params.offline_hold_ms,
    })
    this.sock = this.#makeSocket()
  }

  /** @type {(value?: unknown) => void} */
  #resolveClosed = () => {}

  /** End the socket without logging out. @param {Error} [error] */
  end(error) {
    this.#endReason = error
    this.inbox.close()
    void this.sock?.end(error)
  }

  /** The socket has closed. */
  ended = false

  /**
   * Unlink the device, then end. Baileys' own `logout` closes right behind its farewell, which may still be held.
   */
  async logout() {
    const jid = this.creds.me?.id
    const farewell = { tag: 'remove-companion-device', attrs: { jid: jid ?? '', reason: 'user_initiated' } }
    if (jid) await this.sock.sendNode({ tag: 'iq', attrs: { to: S_WHATSAPP_NET, type: 'set', id: this.sock.generateMessageTag(), xmlns: 'md' }, content: [farewell] })
    await Promise.race([this.gate.settled(), sleep(CLOSE_PATIENCE_MS, undefined, { ref: false })])
    this.end(new Boom('logged out by the worker', { statusCode: 401 }))
    await this.closed
  }

  /** Read nothing more: what is on its way stays with WhatsApp. */
  stopReceiving() {
    this.inbox.close()
    this.#raw?.pause()
  }

  #makeSocket() {
    const { params, hooks } = this
    if (params.root_key) WA_CERT_DETAILS.PUBLIC_KEY = Buffer.from(params.root_key, 'base64')
    this.#relaxCertificates()
    const sock = makeWASocket({
      auth: { creds: this.creds, keys: /** @type {any} */ (this.keys) },
      logger: this.#watchedLogger(),
      ...(params.socket_url ? { waWebSocketUrl: params.socket_url } : {}),
      ...(params.version ? { version: /** @type {any} */ (params.version) } : {}),
      ...(params.qr_timeout_ms ? { qrTimeout: params.qr_timeout_ms } : {}),
      ...(params.keep_alive_ms ? { keepAliveIntervalMs: params.keep_alive_ms } : {}),
      browser: /** @type {any} */ (params.browser),
      ...sharedCaches,
      markOnlineOnConnect: false,
      syncFullHistory: false,
      // The first history chunk carries the LID mappings; the worker stores no history.
      shouldSyncHistoryMessage: ({ syncType }) => syncType === proto.HistorySync.HistorySyncType.INITIAL_BOOTSTRAP,
      getMessage: async () => undefined,
      transactionOpts: { maxCommitRetries: 1, delayBetweenTriesMs: 0 }, // a write into the map cannot fail
      makeSignalRepository: (auth, logger, lookup) => this.#sections.watch(DEFAULT_CONNECTION_CONFIG.makeSignalRepository(auth, logger, lookup)),
    })
    this.#transactions.watch(sock.authState.keys)
    this.#hookFrames(sock)
    this.#hookStanzas(sock)
    this.#hookEvents(sock)
    return sock
  }

  /** Baileys reports a stanza that it gave up to its logger alone. */
  #watchedLogger() {
    const logger = this.hooks.logger.child({})
    const error = logger.error.bind(logger)
    logger.error = (/** @type {any[]} */ ...args) => {
      if (args[1] === 'error in handling message') this.#sections.abandon(this.inbox.unsettled, String(args[0]?.node))
      error(.../** @type {[any, any]} */ (args))
    }
    logger.child = /** @type {any} */ (itself)
    // Seen in a heap snapshot: Timeout → LRUCache → MessageRetryManager → this logger, for five minutes after the close.
    // Through it they would hold this connection.
    void this.closed.then(() => { logger.error = error })
    return logger
  }

  /** `WA_STRICT_CERTS=false`: the server's certificates alone are not checked; the account's signature still is. */
  #relaxCertificates() {
    if (this.params.strict_certs) return
    const strict = Curve.verify
    Curve.verify = (key, message, signature) => this.#handshaking || strict(key, message, signature)
    void this.closed.then(() => { Curve.verify = strict })
  }

  // ── out ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param {any} sock */
  #hookFrames(sock) {
    const raw = (this.#raw = sock.ws.socket)
    this.#send = raw.send.bind(raw)
    raw.send = (/** @type {Uint8Array} */ frame, /** @type {any} */ callback) => {
      const section = this.#sections.own
      // A section keeps its keys together, and what it asks for depends on none of them.
      if (!section?.open) this.#transactions.flush()
      this.gate.send(frame, section)
      // Baileys must not wait for the database: it is told at once that the frame is sent.
      if (typeof callback === 'function') callback()
    }
    // Whoever ends the socket waits for the peer's goodbye: a paused socket would never read it, a dead peer sends none.
    const close = raw.close.bind(raw)
    raw.close = (/** @type {any[]} */ ...args) => {
      raw.resume()
      close(...args)
      setTimeout(() => raw.terminate(), CLOSE_PATIENCE_MS).unref()
    }
    raw.on('unexpected-response', (/** @type {any} */ request, /** @type {any} */ response) => {
      request.destroy() // Baileys raises no event at all for this (FACTS §13)
      void sock.end(new Boom(`HTTP ${response.statusCode} at the upgrade`, { statusCode: 503 }))
    })
  }

  /** @type {(frame: Uint8Array) => void} */
  #send = () => {}

  /** @param {Uint8Array} frame */
  #write(frame) {
    if (this.#raw.readyState === this.#raw.OPEN) this.#send(frame)
  }

  // ── in ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param {any} sock */
  #hookStanzas(sock) {
    const emit = sock.ws.emit.bind(sock.ws)
    this.#emit = emit
    sock.ws.emit = (/** @type {string} */ event, /** @type {any[]} */ ...args) => {
      if (event === 'CB:success') {
        this.#handshaking = false
        this.#serverStart = Number(args[0].attrs.t) * 1000 - uptime() * 1000 || null
      }
      if (event === 'CB:iq,type:set,pair-device') this.#handshaking = false
      if (event === 'CB:ib,,offline') this.#backlogComplete(args[0])
      if (event === 'CB:notification' && args[0].attrs.type === 'companion_reg_refresh' && !this.creds.account) {
        this.#renewSecret(args[0])
        return true
      }
      if (event !== 'CB:message') return emit(event, ...args)
      this.#arrive(args[0])
      return true
    }
  }

  /** @type {(event: string, ...args: any[]) => boolean} */
  #emit = () => false

  /** @param {any} node */
  #backlogComplete(node) {
    const child = Array.isArray(node.content) ? node.content.find((/** @type {any} */ c) => c.tag === 'offline') : undefined
    this.hooks.notify('offline', { count: Number(child?.attrs.count) || 0 })
    this.inbox.backlogComplete()
  }

  /**
   * WhatsApp's clock minus ours. Held by the uptime, which counts a suspended machine's sleep and which nobody sets: a clock that is
   * set right while we are connected would make every live message look old.
   * @param {number} now @returns {number | null} null before the login
   */
  #offset(now) { return this.#serverStart === null ? null : this.#serverStart + uptime() * 1000 - now }

  /** @param {import('baileys').BinaryNode} node */
  #arrive(node) {
    const now = Date.now()
    const stanza = new Stanza(node, this.creds, now, this.#offset(now))
    this.stanzasIn += 1
    this.lastStanzaAt = stanza.arrivedAt
    this.inbox.arrive(stanza)
    this.#throttle.regulate()
  }

  /** @param {Stanza} stanza */
  #deliver(stanza) {
    this.#sections.expect(stanza)
    this.#emit('CB:message', stanza.node)
  }

  /** @param {Stanza} stanza a redelivery: the receipt that Baileys would send, and nothing else */
  #swallow(stanza) {
    const { key, node } = stanza
    if (!key?.remoteJid || !key.id) return
    const type = node.attrs.category === 'peer' ? 'peer_msg' : key.fromMe ? 'sender' : this.#activeReceipts ? undefined : 'inactive'
    const toMyself = type === 'sender' && (key.remoteJid.endsWith('@lid') || key.remoteJidAlt?.endsWith('@lid'))
    const participant = toMyself ? (node.attrs.participant ?? node.attrs.from) : key.participant
    void this.sock.sendReceipt(key.remoteJid, /** @type {any} */ (participant ?? undefined), [key.id], /** @type {any} */ (type))
      .catch((error) => this.hooks.logger.debug({ err: error }, 'a receipt for a redelivery was not sent'))
  }

  // ── state ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param {any} sock */
  #hookEvents(sock) {
    const emit = sock.ev.emit.bind(sock.ev)
    sock.ev.emit = (/** @type {string} */ event, /** @type {any} */ data) => {
      if (event === 'creds.update') {
        // Merged here first, so that the log holds what Baileys is about to believe.
        Object.assign(this.creds, data)
        const creds = serialiseCreds(this.creds)
        this.gate.append({ creds, bytes: creds.length })
        // With a name that differs from ours, or none, Baileys would send a presence: the account would show as online.
        return emit(event, { ...data, me: this.creds.me })
      }
      if (event === 'connection.update') this.#onConnection(data)
      const events = toWireEvents(event, data, (jid) => areJidsSameUser(jid, this.creds.me?.id) || areJidsSameUser(jid, this.creds.me?.lid))
      if (events.length > 0) this.gate.append({ events, bytes: 200 * events.length })
      return emit(event, data)
    }
  }

  /** @param {Partial<import('baileys').ConnectionState>} update */
  #onConnection(update) {
    const { notify } = this.hooks
    if (update.isOnline !== undefined) this.#activeReceipts = update.isOnline
    if (update.isNewLogin) {
      this.#pairing = true
      notify('connection', { state: 'connecting', is_new_login: true })
    }
    // The QR timer outlives the pairing (FACTS §2).
    if (update.qr && !this.#pairing) this.#qr.show(update.qr, this.creds.advSecretKey)
    if (update.connection === 'connecting') notify('connection', { state: 'connecting' })
    if (update.connection === 'open') {
      this.#opened = true
      const { id = null, lid = null, name = null } = this.creds.me ?? {}
      notify('connection', { state: 'open', me: { id, lid, name }, server_time_offset_ms: this.#offset(Date.now()) })
    }
    if (update.connection === 'close') this.#onClose(update.lastDisconnect?.error)
  }

  /**
   * WhatsApp retires the secret that the QR code on show carries, and with it the code (Baileys #2737). Stock Baileys ignores
   * that, and cannot even acknowledge what comes before the account has a name. After a pairing code was typed the secret is the
   * one that the phone has agreed to.
   * @param {import('baileys').BinaryNode} node
   */
  #renewSecret({ attrs: { id, from, type } }) {
    this.sock.sendNode({ tag: 'ack', attrs: { id, to: from, class: 'notification', type } })
      .catch((error) => this.hooks.logger.debug({ err: error }, 'a notification was not acknowledged'))
    if (this.#pairing || this.creds.registered) return
    this.sock.ev.emit('creds.update', { advSecretKey: randomBytes(32).toString('base64') })
    this.#qr.renew(this.creds.advSecretKey)
  }

  /** @param {any} error */
  #onClose(error) {
    this.inbox.close()
    this.#throttle.stop()
    this.#raw?.terminate()
    const phase = this.#opened ? 'open' : this.#qr.count > 0 || this.#pairing ? 'pairing' : 'connecting'
    const cause = error ?? this.#endReason
    const close = { code: cause?.output?.statusCode ?? null, message: cause?.message ?? 'ended', data: smallData(cause?.data), phase }
    this.ended = true
    // The last messages in plain text would stay for five minutes more.
    for (const cache of ['recentMessagesMap', 'sessionRecreateHistory', 'retryCounters', 'baseKeys']) {
      /** @type {any} */ (this.sock?.messageRetryManager)?.[cache]?.clear()
    }
    this.hooks.notify('connection', { state: 'close', close })
    this.#resolveClosed()
  }
}

/** A logger as its own child. @this {import('pino').Logger} */
function itself() {
  return this
}

/** @param {any} data of a close: a node's tag and attributes say enough, its content may hold anything */
function smallData(data) {
  if (!data || typeof data !== 'object') return null
  const attrs = data.tag ? { tag: data.tag, ...data.attrs } : data
  const scalars = Object.entries(attrs).filter(([, value]) => ['string', 'number', 'boolean'].includes(typeof value))
  return scalars.length > 0 ? Object.fromEntries(scalars.slice(0, 10).map(([k, v]) => [k, typeof v === 'string' ? v.slice(0, 200) : v])) : null
}
