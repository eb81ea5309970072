/**
 * One socket of a client: handshake, then stanzas in both directions, in order. Wire faults happen here.
 *
 * States: hello → finish → qr (registering) → login → backlog → live → closed. Does not decide what a stanza means.
 */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { TLSSocket } from 'node:tls'
import { CHAIN_FAULTS, makeNoiseChain } from './certificates.js'
import { makeSigningKey } from './curve.js'
import { frame, FrameReader } from './framing.js'
import { ServerHandshake } from './noise.js'
import { decode, encode, node } from './stanza.js'

/** @typedef {import('./stanza.js').Node} Node */
/** @typedef {'hello' | 'finish' | 'qr' | 'login' | 'backlog' | 'live' | 'closed'} State */

/** No real server answers faster than a round trip; Baileys 6 has its keys only after its last handshake frame. */
const ROUND_TRIP_MS = 40

let made = 0

export class Connection {
  number = ++made
  /** @type {State} */
  state = 'hello'
  #reader = new FrameReader()
  /** @type {ServerHandshake | null} */
  #handshake = null
  /** @type {import('./noise.js').Transport | null} */
  #transport = null
  /** @type {Node[]} frames held by `mute` or delayed by `slow` */
  #held = []
  #draining = false
  /** what this socket registered as, before it is paired @type {import('./companion.js').Companion | null} */
  candidate = null
  /** @type {string[]} QR references that it was given */
  refs = []
  /** secrets of QR codes that count no longer @type {Set<string>} */
  retiredSecrets = new Set()
  offlineSent = 0
  /** the linked device that has logged in here @type {import('./line.js').Line | null} */
  line = null
  /** @type {import('./passkey.js').Gate | null} */
  gate = null
  /** how many more backlog stanzas the client may get */
  allowed = 0
  /** whether it has asked for some itself */
  asked = false
  delivering = false
  /** this client never gets the end of its backlog, nor anything after it */
  endWithheld = false
  /** what a deaf connection does not hear, until it is made anew @type {'' | 'all' | 'groups'} */
  deaf = ''
  /** WhatsApp Web's version that the client claims */
  version = ''
  /** when it got its QR references, monotonic milliseconds */
  qrAt = 0
  /** @type {number[]} monotonic times of the queries of the last minute */
  recentQueries = []
  /** a pairing by code under way @type {{at: number, phone: string, wrapped: Buffer, ref: Buffer, shared: Buffer, bundle: Buffer, retired: boolean} | null} */
  codeRequest = null

  /**
   * @param {import('./phone.js').Phone} phone
   * @param {import('ws').WebSocket} ws
   * @param {import('node:net').Socket} socket
   * @param {{onPayload: (connection: Connection, payload: any, clientStatic: Buffer) => void, onStanza: (connection: Connection, stanza: Node) => void, onClose: (connection: Connection) => void}} handlers
   */
  constructor(phone, ws, socket, handlers) {
    this.phone = phone
    this.ws = ws
    this.socket = socket
    this.handlers = handlers
    phone.connections.add(this)
    phone.log.add('socket_open', { connection: this.number })
    ws.on('message', (data) => this.#read(/** @type {Buffer} */ (data)))
    ws.on('error', (error) => phone.log.add('socket_error', { connection: this.number, error: error.message }))
    ws.on('close', (code) => this.#closed(code))
    if (phone.faults.has('deaf')) socket.pause()
  }

  /** @param {State} state */
  become(state) {
    if (this.state === 'closed') return
    this.state = state
    this.phone.changes.emit('change')
  }

  /** @param {Buffer} data */
  #read(data) {
    try {
      for (const body of this.#reader.read(data)) this.#frame(body)
    } catch (error) {
      this.phone.log.add('protocol_error', { connection: this.number, error: String(error) })
      this.ws.close(1002)
    }
  }

  /** @param {Buffer} body */
  #frame(body) {
    if (this.state === 'closed') return
    if (this.#transport) return this.handlers.onStanza(this, decode(this.#transport.open(body)))
    if (this.state === 'hello') return this.#hello(body)
    const { clientStatic, payload, transport } = /** @type {ServerHandshake} */ (this.#handshake).finish(body)
    this.#transport = transport
    this.phone.log.add('handshake', { connection: this.number })
    setTimeout(() => this.state === 'closed' || this.handlers.onPayload(this, payload, clientStatic), ROUND_TRIP_MS)
  }

  /** @param {Buffer} body */
  #hello(body) {
    const { phone } = this
    this.state = 'finish'
    if (phone.faults.take('garbage_handshake')) return void this.ws.send(frame(randomBytes(120)))
    const root = phone.faults.take('foreign_root') ? phone.world.foreignRoot : phone.world.root
    const fault = CHAIN_FAULTS.find((kind) => phone.faults.take(kind))
    const own = fault === 'replayed_chain' ? makeSigningKey() : phone.world.serverStatic
    this.#handshake = new ServerHandshake(own, /** @type {Buffer} */ (this.#reader.intro))
    this.ws.send(frame(this.#handshake.hello(body, makeNoiseChain(root, phone.world.serverStatic.public, fault))))
    if (this.#handshake.resumes) phone.log.add('resume_refused', { connection: this.number })
  }

  /** Whether this connection gets such a stanza; a deaf one looks alive and does not. @param {Node} stanza */
  hears({ attrs }) {
    return this.deaf === '' || (this.deaf === 'groups' && !attrs.from?.endsWith('@g.us'))
  }

  /** Writes a stanza, after those before it. @param {Node} stanza */
  send(stanza) {
    if (this.state === 'closed' || !this.#transport) return
    const { faults } = this.phone
    if (!this.#held.length && !faults.has('mute') && !faults.has('slow')) return this.#write(stanza)
    this.#held.push(stanza)
    void this.drain()
  }

  /** Writes what was held, as the faults allow. */
  async drain() {
    const { faults } = this.phone
    if (this.#draining) return
    this.#draining = true
    while (this.#held.length && !faults.has('mute') && this.state !== 'closed') {
      const slow = faults.has('slow')
      if (slow) await sleep(Number(slow.ms ?? 100))
      const next = this.#held.shift()
      if (next) this.#write(next)
    }
    this.#draining = false
  }

  /** @param {Node} stanza */
  #write(stanza) {
    if (!this.#transport || this.ws.readyState !== this.ws.OPEN) return
    this.ws.send(frame(this.#transport.seal(encode(stanza))))
    if (stanza.tag === 'message') this.#maybeDrop()
  }

  #maybeDrop() {
    const fault = this.phone.faults.has('drop')
    if (!fault || fault.after === undefined || --fault.after > 0) return
    this.phone.faults.take('drop')
    this.phone.log.add('fault', { fault: 'drop', connection: this.number })
    this.reset()
  }

  /** Bytes that were written and have not left this process. */
  get backpressure() {
    return this.ws.bufferedAmount
  }

  /** A well-formed frame that no key opens. */
  sendGarbage() {
    this.ws.send(frame(randomBytes(64)))
  }

  /** @param {Node} reason - e.g. what `<stream:error>` holds @param {Record<string, string>} [attrs] */
  streamError(reason, attrs) {
    this.send(node('stream:error', attrs, [reason]))
    this.finish()
  }

  /** Stops reading and writing frames; the socket closes in its own time. */
  finish() {
    this.state = 'closed'
    this.ws.close(1000)
    this.handlers.onClose(this)
  }

  /** Ends the TCP connection with a reset. */
  reset() {
    this.state = 'closed'
    if (this.socket instanceof TLSSocket) this.socket.destroy() // it cannot reset
    else this.socket.resetAndDestroy()
    this.handlers.onClose(this)
  }

  /** @param {number} code */
  #closed(code) {
    this.state = 'closed'
    this.phone.connections.delete(this)
    this.phone.log.add('socket_close', { connection: this.number, code })
    this.handlers.onClose(this)
  }
}
