/**
 * A worker in a few lines: keeps in memory what the real one keeps in Postgres, so that the sidecar can be tested alone. It
 * also starts the virtual phone.
 */
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const SIDECAR = fileURLToPath(new URL('../../index.js', import.meta.url))
const SIMULATOR = fileURLToPath(new URL('../../../simulator/index.js', import.meta.url))
const WAIT_MS = 20_000

/** What survives a sidecar: the database. */
export class Database {
  /** @type {string | null} */
  creds = null
  /** @type {Map<string, string>} */
  keys = new Map()
  /** @type {any[]} */
  stanzas = []
  /** @type {any[]} */
  events = []
  /** @type {Set<string>} */
  hashes = new Set()
  epoch = 0
  seq = 0

  /** @param {any} batch */
  commit({ epoch, seq, creds, keys = {}, stanzas, events }) {
    if (epoch !== this.epoch) throw Object.assign(new Error('stale epoch'), { data: { reason: 'stale' } })
    if (seq <= this.seq) return
    if (seq !== this.seq + 1) throw new Error(`batch ${seq} after ${this.seq}`)
    this.seq = seq
    if (creds) this.creds = creds
    for (const [type, values] of Object.entries(keys)) {
      for (const [id, value] of Object.entries(/** @type {Record<string, string | null>} */ (values))) {
        if (value === null) this.keys.delete(`${type}/${id}`)
        else this.keys.set(`${type}/${id}`, value)
      }
    }
    for (const stanza of stanzas) for (const hash of stanza.hashes) this.hashes.add(hash)
    this.stanzas.push(...stanzas)
    this.events.push(...events)
  }

  /** @param {string} id */
  texts(id) {
    return this.stanzas.filter((s) => s.attrs.id === id && s.content).map((s) => s.content.conversation ?? s.content.extendedTextMessage?.text).filter(Boolean)
  }
}

export class Sidecar {
  /** @type {any[]} */
  notices = []
  /** @type {string[]} */
  log = []
  /** @type {Map<number, {resolve: (v: any) => void, reject: (e: Error) => void}>} */
  #calls = new Map()
  #nextId = 1
  /** @type {Set<() => void>} */
  #watchers = new Set()
  /** Asked before each commit is answered. @type {(batch: any) => Promise<void> | void} */
  beforeCommit = () => {}
  /** @type {(params: any) => Promise<void> | void} */
  beforeGet = () => {}

  /** @param {Database} database @param {Record<string, string>} [env] @param {number} [mark] descriptor of a file for the mark */
  constructor(database, env = {}, mark) {
    this.database = database
    this.child = /** @type {import('node:child_process').ChildProcessWithoutNullStreams} */ (spawn(process.execPath, [SIDECAR], {
      stdio: ['pipe', 'pipe', 'pipe', mark ?? 'ignore'],
      env: { PATH: process.env.PATH, LOG_LEVEL: 'debug', ...(mark === undefined ? {} : { WA_MARK_FD: '3' }), ...env },
    }))
    this.exited = new Promise((resolve) => this.child.once('exit', (code, signal) => { this.#changed(); resolve({ code, signal }) }))
    createInterface({ input: this.child.stdout }).on('line', (line) => void this.#read(JSON.parse(line)))
    createInterface({ input: this.child.stderr }).on('line', (line) => this.log.push(line))
    this.child.stdin.on('error', () => {})
  }

  /** @param {any} document */
  async #read(document) {
    if (document.method && document.id === undefined) {
      this.notices.push(document)
      return this.#changed()
    }
    if (!document.method) {
      const call = this.#calls.get(document.id)
      this.#calls.delete(document.id)
      return document.error ? call?.reject(Object.assign(new Error(document.error.message), document.error)) : call?.resolve(document.result)
    }
    try {
      this.#write({ jsonrpc: '2.0', id: document.id, result: await this.#answer(document.method, document.params) })
    } catch (error) {
      this.#write({ jsonrpc: '2.0', id: document.id, error: { code: -32000, message: error.message, data: error.data } })
    }
    this.#changed()
  }

  /** @param {string} method @param {any} params */
  async #answer(method, params) {
    const { database } = this
    if (method === 'state.load') return { creds: database.creds }
    if (method === 'stanzas.known') return { known: params.hashes.filter((/** @type {string} */ hash) => database.hashes.has(hash)) }
    if (method === 'state.get') {
      await this.beforeGet(params)
      return { values: Object.fromEntries(params.ids.flatMap((/** @type {string} */ id) => (database.keys.has(`${params.type}/${id}`) ? [[id, database.keys.get(`${params.type}/${id}`)]] : []))) }
    }
    if (method === 'commit') {
      await this.beforeCommit(params)
      database.commit(params)
      return { seq: params.seq }
    }
    throw new Error(`no such method: ${method}`)
  }

  /** @param {object} document */
  #write(document) { this.child.stdin.write(JSON.stringify(document) + '\n') }
  #changed() { for (const watcher of this.#watchers) watcher() }

  /** @param {string} method @param {object} [params] @returns {Promise<any>} */
  call(method, params = {}) {
    const id = this.#nextId++
    this.#write({ jsonrpc: '2.0', id, method, params })
    return new Promise((resolve, reject) => this.#calls.set(id, { resolve, reject }))
  }

  /** @param {any} phone @param {object} [overrides] */
  async connect(phone, overrides = {}) {
    this.database.epoch += 1
    this.database.seq = 0
    await this.call('connect', {
      epoch: this.database.epoch, browser: ['wa-worker', 'Chrome', '1.0'], version: null, socket_url: phone.socket_url, root_key: phone.root_key,
      offline_hold_ms: 5_000, strict_certs: true, nack_undecryptable: false, max_log_bytes: 16_000_000, qr_timeout_ms: null, keep_alive_ms: null, ...overrides,
    })
  }

  /**
   * Resolves with the first truthy value of `probe`, asked after every notice and commit.
   * @template T @param {() => T} probe @param {string} what
   * @returns {Promise<T>}
   */
  async until(probe, what) {
    const found = probe()
    if (found) return found
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => { this.#watchers.delete(look); reject(new Error(`waited in vain for ${what}\n${this.log.slice(-15).join('\n')}`)) }, WAIT_MS)
      const look = () => {
        const value = probe()
        if (!value) return
        clearTimeout(timer)
        this.#watchers.delete(look)
        resolve(value)
      }
      this.#watchers.add(look)
    })
  }

  /** @param {string} method @param {(params: any) => boolean} [match] */
  async notice(method, match = () => true) {
    const seen = this.notices
    const found = await this.until(() => seen.find((n) => n.method === method && match(n.params) && !n.taken), `the notice ${method}`)
    found.taken = true
    return found.params
  }

  /** @param {string} state */
  connection(state) { return this.notice('connection', (params) => params.state === state && !params.is_new_login) }

  async stop() {
    this.child.stdin.end()
    return this.exited
  }
}

/** Pair a new account and come back logged in. @param {Sidecar} sidecar @param {any} phone */
export async function pair(sidecar, phone) {
  await sidecar.connect(phone)
  const { qr } = await sidecar.notice('qr')
  await phone.post('/scan', { qr })
  await sidecar.connection('close')
  await sidecar.call('close', { logout: false, drain_ms: 5_000 })
  await sidecar.connect(phone)
  return sidecar.connection('open')
}

/** @returns {Promise<any>} the virtual phone's line, with `post`, `get` and `stop` */
export async function startPhone() {
  const child = spawn(process.execPath, [SIMULATOR, '--exit-with-stdin'], { stdio: ['pipe', 'pipe', 'ignore'] })
  const lines = createInterface({ input: child.stdout })
  const line = await new Promise((resolve, reject) => {
    lines.once('line', resolve)
    child.once('exit', () => reject(new Error('the virtual phone did not start')))
  })
  const phone = JSON.parse(line)
  /** @param {string} path @param {RequestInit} [init] */
  const ask = async (path, init) => {
    const response = await fetch(phone.control_url + path, init)
    const body = await response.json()
    if (!response.ok) throw new Error(`${path}: ${JSON.stringify(body)}`)
    return body
  }
  return {
    ...phone,
    get: (/** @type {string} */ path) => ask(path),
    post: (/** @type {string} */ path, /** @type {object} */ body) => ask(path, { method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
    all: async (/** @type {string} */ path) => {
      /** @type {any[]} */
      const items = []
      for (let since = 0; ;) {
        const page = /** @type {any} */ (await ask(`${path}?since=${since}`))
        if (page.items.length === 0) return items
        items.push(...page.items)
        since = page.next
      }
    },
    stop: () => child.stdin.end(),
  }
}
