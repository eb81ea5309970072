/** The control API: HTTP with JSON on loopback, one table of routes. What each call does lives in its own module. */
import http from 'node:http'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { announceBacklog, room } from './backlog.js'
import { makeFault, makeMediaFault, removeDevices } from './control-faults.js'
import { ControlError } from './errors.js'
import { addMembers, changeAddressing, changeAdmins, createGroup, describe, groupsOf, leaveGroup, removeMembers, renameGroup } from './groups.js'
import { sendHistory } from './history.js'
import { notify, sendNewsletter, writeAppState } from './notifications.js'
import { call, revoke, sendBotMessage } from './other-stanzas.js'
import { gateOf, setPasskeyVariant } from './passkey.js'
import { Phone } from './phone.js'
import { pairByCode, refreshCode, scan } from './pairing.js'
import { enqueue, release, send, sendPeer } from './send.js'
import { node } from './stanza.js'
import { proto } from 'baileys'

/** @typedef {(phone: Phone, body: any) => unknown} Route */

const DEFAULT_WAIT_MS = 10_000
const MAX_BODY_BYTES = 256 * 1024 * 1024
const BURST_LOOK_EVERY = 25 // messages between checks of the socket's backpressure

/** @type {Record<string, Route>} */
const ROUTES = {
  'GET /state': (phone, { device }) => phone.state(device),
  'GET /phones': (phone) => ({ phones: phone.world.phones.map(describePhone) }),
  'POST /phones': (phone, owner) => describePhone(new Phone(phone.world, owner), phone.world.phones.length - 1),
  'POST /wait': waitFor,
  'POST /scan': scan,
  'POST /pair_code': pairByCode,
  'POST /pair_code/refresh': refreshCode,
  'GET /passkey': (phone) => gateOf(phone),
  'POST /passkey': setPasskeyVariant,
  'POST /passkey/assert': (phone, { options, lies }) => phone.passkey.assert(options ?? gateOf(phone).options, lies),
  'POST /passkey/cut': (phone) => gateOf(phone).cutOff(),
  'POST /passkey/confirm': (phone) => Object.assign(gateOf(phone), { confirmed: true }),
  'GET /sw.js': presentVersion,
  'GET /realism': (phone) => phone.realism.switches,
  'POST /realism': (phone, body) => phone.realism.set(body),
  'POST /notification': notify,
  'POST /newsletter': sendNewsletter,
  'POST /me': setOwner,
  'POST /unpair': unpair,
  'POST /prekeys': dropPreKeys,
  'GET /people': (phone) => ({ people: phone.people.all }),
  'POST /people': (phone, { name, phone: number, lid }) => phone.people.get(name, { phone: number, lid }),
  'POST /people/reinstall': reinstall,
  'GET /groups': (phone) => ({ groups: groupsOf(phone).map((group) => describe(phone, group)) }),
  'POST /groups': createGroup,
  'POST /groups/create': createGroup,
  'POST /groups/rename': renameGroup,
  'POST /groups/leave': leaveGroup,
  'POST /groups/add': addMembers,
  'POST /groups/remove': removeMembers,
  'POST /groups/admins': changeAdmins,
  'POST /groups/addressing': changeAddressing,
  'POST /media/hosts': (phone, { hosts }) => ({ hosts: (phone.world.mediaHosts = hosts.map(String)) }),
  'POST /app_state': writeAppState,
  'GET /app_state': ({ appState }) => ({ collections: appState.describe() }),
  'POST /call': call,
  'POST /bot': sendBotMessage,
  'POST /revoke': revoke,
  'POST /send': send,
  'POST /send_many': sendMany,
  'POST /burst': burst,
  'POST /release': release,
  'POST /history_sync': (phone, body) => (body.auto === undefined ? sendHistory(connected(phone, body.device), body) : { auto: (phone.historyAuto = Boolean(body.auto)) }),
  'POST /peer': (phone, { message, device }) => sendPeer(phone.line(device), proto.Message.fromObject(message)),
  'POST /stanza': (phone, body) => (enqueueRaw(phone, body), {}),
  'GET /receipts': (phone, { since }) => phone.receipts.since(Number(since ?? 0)),
  'POST /receipts/wait': waitForReceipts,
  'GET /log': (phone, { since }) => phone.log.since(Number(since ?? 0)),
  'GET /offline': (phone, { device }) => ({ items: [...(phone.line(device)?.queue.entries() ?? [])].map(({ node: { tag, attrs }, sent }) => ({ id: attrs.id, from: attrs.from, participant: attrs.participant ?? null, tag, t: Number(attrs.t), sent })) }),
  'POST /offline/hold': holdBacklog,
  'POST /faults': makeFault,
  'GET /faults': (phone) => ({ active: phone.faults.active, media: phone.media.faults }),
  'POST /media/faults': makeMediaFault,
  'GET /media/requests': (phone, { since }) => ({ ...phone.media.requests.since(Number(since ?? 0)), count: Object.fromEntries(phone.media.count) })
}

/** @param {Phone} phone @param {number} index */
const describePhone = ({ owner, lines }, index) => ({ path: `/phones/${index + 1}`, owner, devices: lines })

/** The account that a path names, and the rest of the path: `/phones/2/send` is `/send` of the second. @param {Phone} first @param {string} pathname @returns {[Phone, string]} */
function addressed(first, pathname) {
  const [, number, rest] = /^\/phones\/(\d+)(\/.+)$/.exec(pathname) ?? []
  if (number === undefined || rest === undefined) return [first, pathname]
  const phone = first.world.phones[Number(number) - 1]
  if (!phone) throw new ControlError(404, `no phone ${number}`)
  return [phone, rest]
}

/** @param {Phone} phone @param {string} host @param {number} port @param {string} [prefix] what every path begins with */
export async function listenForControl(phone, host, port, prefix = '') {
  const server = http.createServer((request, response) => void handle(phone, prefix, request, response)).listen(port, host)
  await once(server, 'listening')
  const address = /** @type {import('node:net').AddressInfo} */ (server.address())
  return { port: address.port, close: () => (server.close(), server.closeAllConnections()) }
}

/** @param {Phone} phone @param {string} prefix @param {http.IncomingMessage} request @param {http.ServerResponse} response */
async function handle(phone, prefix, request, response) {
  const { pathname: whole, searchParams } = new URL(request.url ?? '/', 'http://control')
  const pathname = whole.slice(prefix.length)
  try {
    if (request.headers.origin) throw new ControlError(403, 'not for pages in a browser') // `data_path` reads files
    if (!whole.startsWith(`${prefix}/`)) throw new ControlError(404, 'no such path')
    const [account, path] = addressed(phone, pathname)
    const route = ROUTES[`${request.method} ${path}`]
    if (!route) throw new ControlError(404, `no ${request.method} ${pathname}`)
    const body = request.method === 'GET' ? Object.fromEntries(searchParams) : await readJson(request)
    reply(response, 200, await route(account, body))
  } catch (error) {
    if (!(error instanceof ControlError)) console.error(`${request.method} ${pathname}:`, error)
    reply(response, error instanceof ControlError ? error.status : 500, { error: error instanceof Error ? error.message : String(error) })
  }
}

/** @param {http.IncomingMessage} request */
async function readJson(request) {
  const chunks = []
  let size = 0
  for await (const chunk of request) {
    chunks.push(chunk)
    if ((size += chunk.length) > MAX_BODY_BYTES) throw new ControlError(400, 'the body is too long')
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString() || '{}')
  } catch {
    throw new ControlError(400, 'the body is not JSON')
  }
}

/** @param {http.ServerResponse} response @param {number} status @param {unknown} answer */
function reply(response, status, answer) {
  const text = Buffer.from(JSON.stringify(answer ?? {}))
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': text.length }).end(text)
}

/** As web.whatsapp.com/sw.js has it, somewhere in a script. @param {Phone} phone */
function presentVersion({ realism: { switches: { web_version: version } } }) {
  if (!version) throw new ControlError(404, 'web_version is not set')
  return { client_revision: Number(version.split('.').at(-1)) }
}

/** @param {Phone} phone @param {any} request */
async function waitFor(phone, { for: what, count = 1, stage = 'compare', device, timeout_ms = DEFAULT_WAIT_MS }) {
  const line = () => phone.line(device)
  /** @type {Record<string, () => boolean>} */
  const conditions = {
    connected: () => Boolean(line()?.live), disconnected: () => !line()?.online, paired: () => Boolean(line()),
    qr_waiting: () => phone.state().qr_waiting, queue_empty: () => !line()?.queue.size, logins: () => phone.logins >= count, passkey: () => phone.gate?.stage === stage || Boolean(stage === 'problem' && phone.gate?.problems.length), prekeys: () => (line()?.companion.preKeys.size ?? 0) >= count
  }
  const met = conditions[what]
  if (!met) throw new ControlError(400, `cannot wait for ${what}`)
  if (!(await phone.until(met, timeout_ms))) throw new ControlError(504, `not ${what} within ${timeout_ms} ms`)
  return phone.state(device)
}

/** @param {Phone} phone @param {any} request */
function setOwner(phone, { name, phone: number, biz }) {
  if (phone.lines.length) throw new ControlError(409, 'already linked')
  if (name) phone.owner.name = name
  if (number) phone.owner.phone = String(number).replace(/\D/g, '')
  if (biz !== undefined) phone.business = Boolean(biz)
  return phone.owner
}

/** @param {Phone} phone @param {any} request */
function reinstall(phone, { name }) {
  const person = phone.people.get(name)
  person.devices.clear()
  return person
}

/** @param {Phone} phone @param {number} [device] */
function connected(phone, device) {
  const line = phone.line(device)
  if (!line?.live) throw new ControlError(409, 'no client is connected')
  return line
}

/** Without a device: all of them. @param {Phone} phone @param {{device?: number}} request */
function unpair(phone, { device }) {
  const line = device === undefined ? undefined : phone.line(device)
  removeDevices(phone, line ? [line] : phone.lines)
  return {}
}

/** @param {Phone} phone @param {any} request */
function dropPreKeys(phone, { keep = 0, device }) {
  const companion = phone.line(device)?.companion
  if (!companion) throw new ControlError(409, 'no device is linked')
  for (const id of [...companion.preKeys.keys()].slice(keep)) companion.preKeys.delete(id)
  return { prekeys: companion.preKeys.size }
}

/** @param {Phone} phone @param {any} request */
async function sendMany(phone, { items }) {
  if (!Array.isArray(items)) throw new ControlError(400, 'items is a list')
  return { items: await Promise.all(items.map((item) => send(phone, item))) }
}

/** @param {Phone} phone @param {any} request */
async function burst(phone, { from, to, count, text_prefix = 'm', size = 0, media, gap_ms = 0 }) {
  if (!Array.isArray(from) || !Array.isArray(to) || !from.length || !to.length) throw new ControlError(400, 'from and to are lists')
  const start = performance.now()
  const items = []
  for (let i = 0; i < count; i++) {
    const text = `${text_prefix}-${i}`.padEnd(size, ' .')
    const request = { from: from[i % from.length], to: to[Math.floor(i / from.length) % to.length], ...(media ? { media: { ...media, caption: text } } : { text }) }
    const { id, participant, t } = await send(phone, request)
    items.push({ id, to: request.to, participant, text, t })
    if (gap_ms) await sleep(gap_ms)
    else if (i % BURST_LOOK_EVERY === 0 && phone.online) await room(phone.online)
  }
  return { ids: items.map(({ id }) => id), items, elapsed_ms: performance.now() - start }
}

/** @param {Phone} phone @param {any} request */
async function waitForReceipts(phone, { ids, kinds = ['receipt'], device, timeout_ms = DEFAULT_WAIT_MS }) {
  if (!Array.isArray(ids)) throw new ControlError(400, 'ids is a list')
  const key = (/** @type {any} */ wanted) => (typeof wanted === 'string' ? wanted : `${wanted.id}|${wanted.participant}`)
  const missing = new Map(ids.map((wanted) => [key(wanted), wanted]))
  /** @type {import('./journal.js').Entry[]} */
  const items = []
  let seen = 0
  const done = await phone.until(() => {
    const { next, items: fresh } = phone.receipts.since(seen)
    seen = next
    for (const entry of fresh) {
      if (!kinds.includes(entry.kind) || (device !== undefined && entry.device !== device)) continue
      const found = [String(entry.id), `${entry.id}|${entry.participant}`].filter((one) => missing.delete(one))
      if (found.length) items.push(entry)
    }
    return missing.size === 0
  }, timeout_ms)
  return { done: Boolean(done), missing: [...missing.values()], items }
}

/** @param {Phone} phone @param {any} request */
function holdBacklog(phone, { hold }) {
  phone.holdBacklog = Boolean(hold)
  for (const { online } of phone.lines) if (!hold && online?.state === 'login') announceBacklog(online)
  return { hold: phone.holdBacklog }
}

/** @param {Phone} phone @param {{node: any, keep?: boolean, device?: number}} request */
function enqueueRaw(phone, { node: given, keep = false, device }) {
  const stanza = revive(given)
  if (keep) return enqueue(phone, stanza)
  const client = phone.line(device)?.online ?? [...phone.connections].find((one) => one.state === 'qr')
  if (!client) throw new ControlError(409, 'no client is logged in, and none waits for a scan')
  client.send(stanza)
}

/** @param {any} given @returns {import('./stanza.js').Node} */
function revive({ tag, attrs, content }) {
  if (Array.isArray(content)) return node(tag, attrs, content.map(revive))
  return node(tag, attrs, content?.$bytes === undefined ? content : Buffer.from(content.$bytes, 'base64'))
}
