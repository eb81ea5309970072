#!/usr/bin/env node
/** Independent clients against the virtual phone: links each, and prints a table of how far it gets. See README.md. */
import { spawn } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { randomBytes } from 'node:crypto'
import { startProgram } from '../test/program.js'
import { alreadyHere, install, KINDS } from './install.js'
import { startProxy } from './proxy.js'

const PATIENCE_MS = 60_000
const TEXTS = 10
const BACKLOG = 250

/** @typedef {Awaited<ReturnType<typeof startProgram>>} Phone */
/** @typedef {{event: string, [fact: string]: unknown}} Seen */

/** A client's process and its output. */
class Client {
  /** @type {Seen[]} */
  seen = []
  stderr = ''
  #news = new EventEmitter()

  /** @param {{command: string, args: string[], home: string}} how @param {Record<string, string>} env */
  constructor({ command, args, home }, env) {
    this.child = spawn(command, args, { cwd: home, env: { ...process.env, PHONE_CLIENT_HOME: home, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
    this.child.stderr.on('data', (data) => (this.stderr = (this.stderr + data).slice(-4000)))
    createInterface({ input: this.child.stdout }).on('line', (line) => {
      if (!line.startsWith('{')) return
      this.seen.push(JSON.parse(line))
      this.#news.emit('news')
    })
  }

  /** @template T @param {() => T | undefined | false} predicate @returns {Promise<T | undefined>} undefined when the time is up */
  async until(predicate, timeoutMs = PATIENCE_MS) {
    const signal = AbortSignal.timeout(timeoutMs)
    for (;;) {
      const found = predicate()
      if (found) return found
      if (await once(this.#news, 'news', { signal }).then(() => false, () => true)) return undefined
    }
  }

  /** How many of these have come, at last. @param {string} event @param {string[]} ids */
  async count(event, ids) {
    const here = () => ids.filter((id) => this.seen.some((one) => one.event === event && one.id === id)).length
    await this.until(() => here() === ids.length)
    return here()
  }

  stop() {
    this.child.kill('SIGKILL')
  }
}

/** What each step says in the table; a step that throws ends the client's run. @type {[string, (phone: Phone, client: Client) => Promise<string>][]} */
const STEPS = [
  ['pairs', async (phone, client) => {
    const qr = await client.until(() => client.seen.find(({ event }) => event === 'qr')?.qr)
    if (!qr) throw new Error('no QR')
    await phone.post('/scan', { qr })
    return 'yes'
  }],
  ['logs in', async (phone) => {
    await phone.post('/wait', { for: 'connected' })
    return 'yes'
  }],
  ['group texts', async (phone, client) => {
    const groups = await Promise.all([['Runners', 'lid'], ['Walkers', 'pn']].map(([subject, addressing_mode]) => phone.post('/groups', { subject, addressing_mode, participants: ['Ana', 'Ben'] })))
    const { ids } = await phone.post('/burst', { from: ['Ana', 'Ben'], to: groups.map(({ id }) => id), count: TEXTS })
    return `${await client.count('text', ids)} of ${ids.length}`
  }],
  ['media', async (phone, client) => {
    const [{ id: group }] = (await phone.get('/groups')).groups
    const { id, media } = await phone.post('/send', { from: 'Ana', to: group, media: { kind: 'image', data: randomBytes(40_000).toString('base64') } })
    const got = await client.until(() => client.seen.find((one) => one.event === 'media' && one.id === id))
    return got ? (got.sha256 === media.sha256 ? 'yes' : 'other bytes') : 'no'
  }],
  ['a good copy after a bad one', async (phone, client) => {
    const [{ id: group }] = (await phone.get('/groups')).groups
    const { id } = await phone.post('/send', { from: 'Ben', to: group, text: 'twice', fault: { corrupt: true } })
    return (await client.count('text', [id])) ? 'yes' : 'no'
  }],
  ['backlog', async (phone, client) => {
    await away(phone)
    const { groups } = await phone.get('/groups')
    const { ids } = await phone.post('/burst', { from: ['Ana', 'Ben'], to: groups.map((/** @type {any} */ { id }) => id), count: BACKLOG, text_prefix: 'late' })
    await phone.post('/faults', { kind: 'clear' })
    return `${await client.count('text', ids)} of ${ids.length}`
  }],
  ['live after it', async (phone, client) => {
    const [{ id: group }] = (await phone.get('/groups')).groups
    const { id } = await phone.post('/send', { from: 'Ana', to: group, text: 'live again' })
    return (await client.count('text', [id])) ? 'yes' : 'no'
  }]
]

/** The client is cut off, and cannot come back before the faults are cleared. @param {Phone} phone */
async function away(phone) {
  await phone.post('/faults', { kind: 'refuse', on: true })
  await phone.post('/faults', { kind: 'http_503', times: 1000 })
  await phone.post('/faults', { kind: 'drop' })
  await phone.post('/wait', { for: 'disconnected' })
}

/** @param {string} name @param {string[]} realism @returns {Promise<string[]>} a word for each step */
async function tryClient(name, realism) {
  const how = values.here ? alreadyHere(name) : install(name)
  const phone = await startProgram(...realism.flatMap((word) => ['--realism', word]))
  const { socket_url, root_key, media_origin, media_ca } = phone.endpoints
  const proxy = await startProxy(media_origin)
  const authority = join(tmpdir(), `wa-phone-${process.pid}.pem`)
  writeFileSync(authority, media_ca)
  const client = new Client(how, {
    PHONE_SOCKET_URL: socket_url, PHONE_ROOT_KEY: root_key, NODE_EXTRA_CA_CERTS: authority, SSL_CERT_FILE: authority,
    NODE_USE_ENV_PROXY: '1', HTTPS_PROXY: proxy.url, HTTP_PROXY: '', NO_PROXY: '127.0.0.1'
  })
  const words = await walk(phone, client)
  client.stop()
  if (values.log) console.error(client.stderr, JSON.stringify((await phone.get('/log')).items, null, 1))
  proxy.close()
  await phone.stop()
  return words
}

/** @param {Phone} phone @param {Client} client */
async function walk(phone, client) {
  const words = []
  for (const [, step] of STEPS) {
    try {
      words.push(await step(phone, client))
    } catch (error) {
      words.push(`no: ${error instanceof Error ? error.message : error}`)
      break
    }
  }
  return words
}

const { values, positionals } = parseArgs({ allowPositionals: true, options: { realism: { type: 'string', multiple: true, default: [] }, log: { type: 'boolean', default: false }, here: { type: 'boolean', default: false } } })
console.log(`| client | ${STEPS.map(([title]) => title).join(' | ')} |\n|---${'|---'.repeat(STEPS.length)}|`)
for (const name of positionals.length ? positionals : Object.keys(KINDS)) {
  const words = await tryClient(name, values.realism)
  console.log(`| ${name} ${KINDS[name]?.version} | ${STEPS.map((_, index) => words[index] ?? '').join(' | ')} |`)
}
