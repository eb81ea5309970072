/**
 * One Baileys socket, wired so that everything durable passes the gate.
 *
 * Stock Baileys, replaced only in the places that `internals.js` lists; its files are never edited.
 */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { Boom } from '@hapi/boom'
import { LRUCache } from 'lru-cache'
import {
  areJidsSameUser, buildAckStanza, Curve, DEFAULT_CONNECTION_CONFIG, initAuthCreds, makeWASocket, NACK_REASONS,
  S_WHATSAPP_NET, WA_CERT_DETAILS,
} from 'baileys'
import { Gate } from '../log/gate.js'
import { Inbox } from '../log/inbox.js'
import { KeyStore } from '../log/keys.js'
import { Preview } from '../log/preview.js'
import { Throttle } from '../log/throttle.js'
import { Arrivals } from './arrivals.js'
import { atMost } from './caches.js'
import { checkChains } from './certificates.js'
import { toWireClose } from './close.js'
import { identitiesOf, toWireEvents } from './events.js'
import {
  ANY_STANZA, BUFFERED_EVENTS, checkSocket, RETRY_CACHES, STANZA, TAGS_OF_ANSWERS, TAGS_OF_BAILEYS,
} from './internals.js'
import { keysToOpen } from './key_names.js'
import { toNotice } from './notice.js'
import { rememberUnknown } from './lid_lookup.js'
import { socketOptions } from './options.js'
import { Pairing } from './pairing.js'
import { Passkey, PASSKEY_NOTIFICATIONS } from './passkey.js'
import { receiptFor } from './receipt.js'
import { RetryBudget } from './retry_budget.js'
import { Sections } from './sections.js'
import { revive, reviveCreds, serialise, serialiseCreds } from './serial.js'
import { ServerClock } from './server_clock.js'
import { Stanza } from './stanza.js'
import { Traffic } from './traffic.js'
import { Transactions } from './transactions.js'
import { CLOSE_PATIENCE_MS, Transport } from './transport.js'
import { answerUndecryptable, keepRetryCounts } from './undecryptable.js'
import { watchLogger } from './watched_logger.js'

/** A notification: the secret in the shown QR code is no longer valid. Baileys does not know it (Baileys #2737). */
const QR_RETIRED = 'companion_reg_refresh'
/** A notification: somebody has typed the pairing code on the phone, or the code was retired. */
const OF_A_CODE = 'link_code_companion_reg'
/**
 * A notification: settings of the account have changed on another device. Baileys would fetch and store the whole
 * collection again, and the worker needs none of it (docs/whatsapp.md, "The real server in 2026").
 */
const STATE_CHANGED = 'server_sync'
/** The app-state collection with the account's own name; for ordinary accounts the name is only there. */
const OWN_NAME = 'critical_block'
/**
 * Baileys counts here how often it has fetched the app state. At 0 it fetches every collection with the first history:
 * thousands of contacts as files, without a time-out, in a transaction that every retry receipt waits for. The worker
 * needs none of them.
 */
const NEVER_FETCH = { accountSyncCounter: 1 }
/** Stanzas of the offline backlog in one window, as Baileys asks for them. */
const WINDOW = '100'
/** A notification: a change in a group. */
const OF_A_GROUP = 'w:gp2'
/** A separate stanza since July 2026: somebody's status. */
const STATUS = 'status'
/** The nack of WhatsApp's own client for a stanza that it does not know. */
const UNRECOGNISED_STANZA = 488
/** The reason of a `stalled`: an announced backlog does not come. */
const BACKLOG_STALLED = 'backlog'
/** Approximate size of an event in the log. */
const EVENT_BYTES = 200
/** How many reported address pairs are remembered: some 200 bytes each, and only with lists of members. */
const TOLD_MAX = 20_000

/**
 * @typedef {import('./options.js').ConnectParams} ConnectParams
 * @typedef {object} SocketHooks
 * @property {(batch: import('../log/gate.js').Batch) => Promise<void>} commit
 * @property {(type: string, ids: string[]) => Promise<Record<string, string>>} getKeys
 * @property {(hashes: string[]) => Promise<string[]>} known
 * @property {(method: string, params: object) => void} notify
 * @property {(chat: string) => boolean} monitored whether messages of this group are stored
 * @property {import('../log/mark.js').Mark} mark
 * @property {import('pino').Logger} logger
 */

export class Connection {
  /** @type {Transport | null} */
  #transport = null
  /** @type {Throttle} */
  #throttle
  /** @type {Preview} */
  #preview
  /** @type {Arrivals} */
  #arrivals
  /** @type {Pairing} */
  #link
  /** @type {Sections} */
  #sections
  #transactions = new Transactions((data) => this.keys.set(data))
  #retries = new RetryBudget()
  #clock = new ServerClock()
  #traffic = new Traffic()
  /** The number that the lists of members gave to a LID. @type {LRUCache<string, string>} */
  #told = new LRUCache(atMost(TOLD_MAX))
  #activeReceipts = false
  #pairing = false
  #nameWanted = false
  #fetchingName = false
  #opened = false
  #handshaking = true
  #endReason = /** @type {Error | undefined} */ (undefined)
  /** @type {(value?: unknown) => void} */
  #resolveClosed = () => {}

  stanzasIn = 0
  stanzasOut = 0
  /** When WhatsApp last sent anything but an answer, milliseconds; 0 before the first. */
  lastStanzaAt = 0
  /** The same of what came from a group. */
  lastGroupStanzaAt = 0
  /** When any frame last came, milliseconds since 1970. */
  #lastFrameAt = 0
  /** When WhatsApp said that it has sent everything that had waited; Infinity before. */
  #backlogEndedAt = Infinity
  /** The socket has closed. */
  ended = false

  /**
   * @param {ConnectParams} params
   * @param {string | null} creds serialised; null for a new account
   * @param {SocketHooks} hooks
   * @throws {Error} if the credentials are torn
   * @throws {import('./internals.js').MissingInternals} if this is another Baileys
   */
  constructor(params, creds, hooks) {
    this.params = params
    this.hooks = hooks
    const stored = creds === null ? null : reviveCreds(creds)
    // Discard what an attempt to link left behind: with `me` in it, Baileys would log in instead of registering.
    this.creds = stored?.account ? stored : { ...initAuthCreds(), ...NEVER_FETCH }
    this.#arrivals = new Arrivals(hooks.notify)
    this.#link = new Pairing({
      creds: this.creds, browser: params.browser, ttlMs: params.qr_timeout_ms, notify: hooks.notify,
      end: (error) => void this.sock.end(error),
    })
    this.passkey = new Passkey({
      creds: this.creds, browser: params.browser, notify: hooks.notify,
      query: (node, timeoutMs) => this.sock.query(node, timeoutMs),
      onRequest: () => this.#link.stop(), // its timers would end the socket while a person uses the passkey
    })
    this.closed = new Promise((resolve) => (this.#resolveClosed = resolve))
    /** @param {string[]} hashes */
    const known = (hashes) => hooks.known(hashes).catch((error) => {
      this.gate.fail(error)
      throw error
    })
    this.gate = new Gate({
      commit: (batch) => hooks.commit(batch),
      write: (frame) => this.#transport?.write(frame),
      onDurable: (number) => {
        this.keys.durable(number)
        hooks.mark.durable(number)
      },
      onFailure: (error) => this.end(error),
      inWork: /** @returns {number} */ () => (this.inbox.closed ? 0 : this.inbox.waiting),
      onDepth: () => this.#throttle.regulate(),
    })
    this.#sections = new Sections({
      gate: this.gate,
      keys: () => this.keys,
      known,
      mark: hooks.mark,
      onOpen: () => this.#throttle.regulate(),
      onJournaled: (stanza) => {
        this.stanzasOut += 1
        this.inbox.settled(stanza, stanza.hashes)
        this.#throttle.regulate()
      },
    })
    this.#throttle = new Throttle({
      load: () => ({
        bytes: this.gate.bytes,
        waiting: this.inbox.waiting,
        waitingBytes: this.inbox.waitingBytes,
        openSections: this.gate.openSections,
        settled: this.stanzasOut,
      }),
      pause: () => this.#transport?.pause(),
      resume: () => { if (!this.inbox.closed) this.#transport?.resume() },
      maxBytes: params.max_log_bytes,
    })
    this.keys = new KeyStore({
      codec: { serialise, revive },
      read: (type, ids) => hooks.getKeys(type, ids),
      journal: (changes) => this.#sections.journalKeys(changes),
      onReadFailure: (error) => this.gate.fail(error),
    })
    this.inbox = new Inbox({
      known,
      deliver: (stanza) => this.#deliver(stanza),
      swallow: (stanza) => this.#swallow(stanza),
      askForMore: () => this.#askForMore(),
      busy: () => this.#busy,
      holdMs: params.offline_hold_ms,
    })
    this.#preview = new Preview({
      busy: () => this.#busy,
      stalled: (announced, arrived) =>
        hooks.notify('stalled', { reason: BACKLOG_STALLED, detail: { announced, arrived } }),
      patienceMs: params.offline_hold_ms,
    })
    this.sock = this.#makeSocket()
  }

  /**
   * The time, by WhatsApp's clock, up to which everything that WhatsApp sent is durable; null while part of the backlog
   * is not. The socket keeps the order: nothing older can follow the last frame.
   * @returns {{epoch: number, to_ms: number} | null}
   */
  get complete() {
    const now = Date.now()
    const offset = this.#clock.offset(now)
    const pending = Math.min(this.inbox.oldestArrival || Infinity, this.gate.oldestArrival)
    if (this.ended || this.gate.failure || offset === null || pending <= this.#backlogEndedAt) return null
    // Somebody has set this machine's clock back: these times mean nothing until the next frame.
    if (this.#lastFrameAt > now || (pending > now && pending < Infinity)) return null
    return { epoch: this.params.epoch, to_ms: Math.min(this.#lastFrameAt, pending) + offset }
  }

  /** WhatsApp's time, as far as it is known, milliseconds. @returns {number} */
  get serverTime() {
    const now = Date.now()
    return now + (this.#clock.offset(now) ?? 0)
  }

  /**
   * Report pairs of addresses to the worker, through the log as always, each pair once. If the log loses one, its
   * connection is lost too, and the next one reports it again.
   * @param {import('./events.js').Member[]} members
   */
  learn(members) {
    const isNews = (/** @type {string} */ lid, /** @type {string} */ pn) => {
      const known = this.#told.get(lid) === pn
      this.#told.set(lid, pn)
      return !known
    }
    for (const events of identitiesOf(members, isNews)) this.gate.append({ events, bytes: EVENT_BYTES * events.length })
  }

  /** End the socket without logging out. @param {Error} [error] */
  end(error) {
    this.#endReason = error
    this.inbox.close()
    void this.sock?.end(error)
  }

  /** Unlink the device, then end. Baileys' own `logout` closes at once, while the gate may still hold the request. */
  async logout() {
    const jid = this.creds.me?.id
    if (jid) {
      await this.sock.sendNode({
        tag: 'iq',
        attrs: { to: S_WHATSAPP_NET, type: 'set', id: this.sock.generateMessageTag(), xmlns: 'md' },
        content: [{ tag: 'remove-companion-device', attrs: { jid, reason: 'user_initiated' } }],
      })
    }
    await Promise.race([this.gate.settled(), sleep(CLOSE_PATIENCE_MS, undefined, { ref: false })])
    this.end(new Boom('logged out by the worker', { statusCode: 401 }))
    await this.closed
  }

  /** A code to type on the phone instead of a scan. @param {string} phone digits */
  requestCode(phone) {
    return this.#link.requestCode(this.sock, phone)
  }

  /** Stop reading: WhatsApp keeps what is on its way. */
  stopReceiving() {
    this.inbox.close()
    this.#preview.close()
    this.#transport?.pause()
  }

  #makeSocket() {
    const { params, hooks } = this
    if (params.root_key) WA_CERT_DETAILS.PUBLIC_KEY = Buffer.from(params.root_key, 'base64')
    checkChains(params.strict_certs)
    if (!params.strict_certs) this.#relaxCertificates()
    const sock = makeWASocket({
      ...socketOptions(params),
      auth: { creds: this.creds, keys: /** @type {any} */ (this.keys) },
      logger: watchLogger(hooks.logger, {
        onGaveUp: (xml) => this.#sections.abandon(this.inbox.inWork, xml),
        onSent: (xml) => this.#traffic.sent(xml),
      }, this.closed),
      makeSignalRepository: (auth, logger, lookup) =>
        this.#sections.watch(DEFAULT_CONNECTION_CONFIG.makeSignalRepository(auth, logger, rememberUnknown(lookup))),
    })
    try {
      checkSocket(sock)
    } catch (error) {
      void sock.end(error)
      throw error
    }
    answerUndecryptable(params.nack_undecryptable)
    keepRetryCounts(sock.messageRetryManager, (id) => this.#sections.askedFor(id)?.name ?? id)
    this.#transactions.watch(sock.authState.keys)
    this.#boundRetries(sock.messageRetryManager)
    this.#transport = new Transport(/** @type {any} */ (sock.ws).socket, {
      onFrame: (frame) => this.#send(frame),
      onRefused: (status) => void sock.end(new Boom(`HTTP ${status} at the upgrade`, { statusCode: 503 })),
    })
    this.#hookStanzas(sock)
    this.#hookEvents(sock)
    return sock
  }

  /** `WA_STRICT_CERTS=false` skips the check of the server's certificates, but not that of the account's signature. */
  #relaxCertificates() {
    const strict = Curve.verify
    Curve.verify = (key, message, signature) => this.#handshaking || strict(key, message, signature)
    void this.closed.then(() => { Curve.verify = strict })
  }

  /** Baileys asks here before each retry receipt. @param {any} manager */
  #boundRetries(manager) {
    const exceeded = manager.hasExceededMaxRetries.bind(manager)
    manager.hasExceededMaxRetries = (/** @type {string} */ id) => {
      const stanza = this.#sections.askedFor(id)
      return exceeded(id) || (stanza !== undefined && (stanza.hopeless || !this.#mayAskFor(stanza)))
    }
  }

  /**
   * Whether to request another copy of this stanza. We do not request what would be discarded: a member whose keys we
   * lack is asked for the next message after the group is switched on (docs/whatsapp.md, "Undecryptable floods").
   * @param {{author: string, stored: boolean, wanted: boolean}} stanza
   */
  #mayAskFor({ author, stored, wanted }) { return this.#retries.allows({ author, stored: stored && wanted }) }

  // ── out ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param {Uint8Array} frame from Baileys, encrypted */
  #send(frame) {
    const section = this.#sections.own
    // The keys of an open section stay together, and its requests depend on none of them.
    if (!section?.open) this.#transactions.flush()
    this.gate.send(frame, section)
  }

  // ── in ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param {any} sock */
  #hookStanzas(sock) {
    const emit = sock.ws.emit.bind(sock.ws)
    this.#emitStanza = emit
    sock.ws.emit = (/** @type {string} */ event, /** @type {any[]} */ ...args) => {
      const [node] = args
      switch (event) {
        case ANY_STANZA:
          this.#lastFrameAt = Date.now()
          this.#hear(node)
          this.#traffic.note(node)
          this.#answerUnknown(node)
          break
        case STANZA.message:
          this.#arrive(node)
          return true
        case STANZA.notification:
          if (!this.creds.account && PASSKEY_NOTIFICATIONS.has(node.attrs.type)) {
            this.#acknowledge(buildAckStanza(node, this.passkey.take(node)))
            return true
          }
          if (node.attrs.type === STATE_CHANGED || (node.attrs.type === OF_A_CODE && !this.#link.aboutCode(node))) {
            this.#acknowledge(buildAckStanza(node))
            return true
          }
          if (node.attrs.type === OF_A_GROUP) this.#journalNotice(node)
          if (node.attrs.type !== QR_RETIRED || this.creds.account) break
          this.#renewSecret(node)
          return true
        case STANZA.success:
          this.#handshaking = false
          // Before the pairing it has no meaning, and Baileys would take it for a login.
          if (!this.creds.account) return true
          this.#clock.set(node.attrs.t)
          break
        case STANZA.pairDevice:
          this.#handshaking = false
          this.#acknowledge({ tag: 'iq', attrs: { to: S_WHATSAPP_NET, type: 'result', id: node.attrs.id } })
          this.#link.offer(node)
          return true
        case STANZA.offlinePreview:
          this.#preview.announced(countOf(childOf(node, 'offline_preview')))
          break
        case STANZA.offlineDone:
          this.#backlogComplete(node)
          break
      }
      return emit(event, ...args)
    }
  }

  /** Baileys' own `emit`. @type {(event: string, ...args: any[]) => boolean} */
  #emitStanza = () => false

  /** @param {any} node */
  #backlogComplete(node) {
    this.#backlogEndedAt = this.#lastFrameAt
    this.#preview.close()
    this.hooks.notify('offline', { count: countOf(childOf(node, 'offline')) })
    this.inbox.backlogComplete()
  }

  /** Request the next window of the backlog. Baileys itself requests only the first, when it reads the preview. */
  #askForMore() {
    const content = [{ tag: 'offline_batch', attrs: { count: WINDOW } }]
    this.sock.sendNode({ tag: 'ib', attrs: {}, content }).catch((error) =>
      this.hooks.logger.debug({ err: error }, 'the backlog could not be asked for'))
  }

  /** @param {import('baileys').BinaryNode} node */
  #arrive(node) {
    const now = Date.now()
    const stanza = new Stanza(node, this.creds, now, this.#clock.offset(now))
    stanza.treatment = stanza.hash ? this.params.suspects?.[stanza.hash] : undefined
    this.stanzasIn += 1
    this.keys.warm(keysToOpen(node.attrs))
    this.#arrivals.arrived(stanza)
    this.inbox.arrive(stanza)
    this.#throttle.regulate()
  }

  /** @param {Stanza} stanza */
  #deliver(stanza) {
    const { from } = stanza.node.attrs
    stanza.wanted = !from?.endsWith('@g.us') || this.hooks.monitored(from)
    this.#sections.expect(stanza)
    if (stanza.treatment === 'unread') return void this.#answerUnread(stanza)
    if (stanza.absent && !this.#mayAskFor(stanza)) return this.#acknowledge(buildAckStanza(stanza.node))
    this.#emitStanza(STANZA.message, stanza.node)
  }

  /**
   * Baileys must not see this stanza: what Baileys does before decryption may be what hangs. The answers are the same
   * as for an undecryptable stanza, and they leave when its stub is durable.
   * @param {Stanza} stanza
   */
  async #answerUnread(stanza) {
    if (stanza.node.attrs.category === 'peer') return this.#swallow(stanza)
    await this.sock.sendRetryRequest(stanza.node).catch((error) =>
      this.hooks.logger.debug({ err: error }, 'the sender could not be asked for another copy'))
    this.#acknowledge(buildAckStanza(stanza.node, NACK_REASONS.UnhandledError))
  }

  /** Receipt a redelivery, and nothing else. @param {Stanza} stanza */
  #swallow(stanza) {
    const receipt = receiptFor(stanza, this.#activeReceipts)
    if (!receipt) return
    this.sock.sendReceipt(.../** @type {[string, any, string[], any]} */ (receipt)).catch((error) =>
      this.hooks.logger.debug({ err: error }, 'the receipt for a redelivery could not be sent'))
  }

  // ── state ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @param {any} sock */
  #hookEvents(sock) {
    const emit = sock.ev.emit.bind(sock.ev)
    sock.ev.emit = (/** @type {string} */ event, /** @type {any} */ data) => {
      if (event === 'creds.update') {
        const heard = emit(event, this.#mergeCreds(data))
        if (data.myAppStateKeyId && !this.creds.me?.name ) this.#fetchName()
        return heard
      }
      if (event === 'connection.update') this.#onConnection(data)
      const events = toWireEvents(event, data, (jid) => this.#isMe(jid))
      if (events.length > 0) this.gate.append({ events, bytes: EVENT_BYTES * events.length })
      return BUFFERED_EVENTS.has(event) || emit(event, data)
    }
  }

  /** The key for the collections has come, or another part of it: fetch once more, if the name is still missing. */
  async #fetchName() {
    this.#nameWanted = true
    if (this.#fetchingName) return
    this.#fetchingName = true
    while (this.#nameWanted && !this.creds.me?.name) {
      this.#nameWanted = false
      await this.sock.resyncAppState([OWN_NAME], true).catch((/** @type {Error} */ error) =>
        this.hooks.logger.debug({ err: error }, 'the account\'s name could not be fetched'))
    }
    this.#fetchingName = false
  }

  /** Before Baileys reads the notification and acknowledges it. @param {import('baileys').BinaryNode} node */
  #journalNotice(node) {
    const event = toNotice(node, (jid) => this.#isMe(jid))
    this.gate.append({ events: [event], bytes: JSON.stringify(event).length })
  }

  /** @param {string} jid */
  #isMe(jid) {
    const { me } = this.creds
    return areJidsSameUser(jid, me?.id) || areJidsSameUser(jid, me?.lid)
  }

  /**
   * Journal the credentials before Baileys takes the change: the log must hold what Baileys is about to believe.
   * @param {object} update
   */
  #mergeCreds(update) {
    Object.assign(this.creds, update)
    const creds = serialiseCreds(this.creds)
    this.gate.append({ creds, bytes: creds.length })
    // If `me` had another name than ours, or none, Baileys would send a presence and the account would show as online.
    return { ...update, me: this.creds.me }
  }

  /** @param {Partial<import('baileys').ConnectionState>} update */
  #onConnection(update) {
    const { notify } = this.hooks
    if (update.isOnline !== undefined) this.#activeReceipts = update.isOnline
    if (update.isNewLogin) {
      this.#pairing = true
      this.#link.stop()
      notify('connection', { state: 'connecting', is_new_login: true })
    }
    if (update.connection === 'connecting') notify('connection', { state: 'connecting' })
    if (update.connection === 'open') {
      this.#opened = true
      const { id = null, lid = null, name = null } = this.creds.me ?? {}
      notify('connection', {
        state: 'open', me: { id, lid, name }, server_time_offset_ms: this.#clock.offset(Date.now()),
      })
    }
    if (update.connection === 'close') this.#onClose(update.lastDisconnect?.error)
  }

  /**
   * WhatsApp has retired the secret in the shown QR code: make a new one and show the code again. Stock Baileys ignores
   * the notification, and cannot acknowledge it before the account has a name. After the pairing (or a typed pairing
   * code, or a request for the passkey) the secret stays: the phone has agreed to it.
   * @param {import('baileys').BinaryNode} node
   */
  #renewSecret(node) {
    this.#acknowledge(buildAckStanza(node))
    if (this.#pairing || this.creds.registered || this.#link.finishing || this.passkey.active) return
    this.sock.ev.emit('creds.update', { advSecretKey: randomBytes(32).toString('base64') })
    this.#link.renew()
  }

  /** Our own pause, or the database: what arrived is not durable yet, and WhatsApp's silence means nothing. */
  get #busy() {
    return this.gate.items > 0 || this.#throttle.paused
  }

  /** @param {import('baileys').BinaryNode | Uint8Array} node bytes before the handshake has ended */
  #hear(node) {
    if (node instanceof Uint8Array || TAGS_OF_ANSWERS.has(node.tag)) return
    this.lastStanzaAt = Date.now()
    if (node.attrs.from?.endsWith('@g.us')) this.lastGroupStanzaAt = this.lastStanzaAt
    if (node.attrs.offline === undefined) return
    this.#preview.arrived()
    if (node.tag !== 'message') this.inbox.otherArrived()
  }

  /**
   * Answer stanzas that Baileys does not know: an unanswered one comes again at each login and ends the stream every 50
   * minutes (`docs/whatsapp.md`, "The real server in 2026").
   * @param {import('baileys').BinaryNode | Uint8Array} node bytes before the handshake has ended
   */
  #answerUnknown(node) {
    if (node instanceof Uint8Array || TAGS_OF_BAILEYS.has(node.tag)) return
    if (!node.attrs.id || !node.attrs.from) return
    this.#acknowledge(buildAckStanza(node, node.tag === STATUS ? undefined : UNRECOGNISED_STANZA))
  }

  /** @param {import('baileys').BinaryNode} answer */
  #acknowledge(answer) {
    this.sock.sendNode(answer).catch((error) =>
      this.hooks.logger.debug({ err: error }, 'a stanza could not be acknowledged'))
  }

  /** @param {any} error */
  #onClose(error) {
    for (const kind of this.#traffic.counts) this.hooks.logger.info(kind, 'stanzas of this connection')
    this.inbox.close()
    this.#preview.close()
    this.#link.stop()
    this.#throttle.stop()
    this.#transport?.terminate()
    this.hooks.mark.clear()
    this.ended = true
    // Otherwise they would keep the last messages in plain text for five minutes more.
    const manager = /** @type {any} */ (this.sock?.messageRetryManager)
    for (const cache of RETRY_CACHES) manager?.[cache]?.clear()
    this.hooks.notify('connection', { state: 'close', close: toWireClose(error ?? this.#endReason, this.#phase) })
    this.#resolveClosed()
  }

  /** The WhatsApp Web version that we claim. */
  get version() {
    return this.params.version ?? DEFAULT_CONNECTION_CONFIG.version
  }

  /** How far the connection has come. */
  get #phase() {
    if (this.#opened) return 'open'
    return this.#link.count > 0 || this.#pairing ? 'pairing' : 'connecting'
  }
}

/** @param {any} node @param {string} tag */
function childOf(node, tag) {
  return (Array.isArray(node.content) ? node.content : []).find((/** @type {any} */ child) => child.tag === tag)
}

/** The attribute `count`; 0 if it is no count. @param {any} node */
function countOf(node) {
  const count = Number(node?.attrs.count)
  return Number.isSafeInteger(count) && count > 0 ? count : 0
}
