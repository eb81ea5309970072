/** The server's answers to `iq` queries, by namespace. A query without meaning here gets an empty result. */
import { createHash } from 'node:crypto'
import { announceBacklog } from './backlog.js'
import { groupNode } from './groups.js'
import { within } from './limits.js'
import { acceptedDisplay, completePairing, rememberBundle, rememberCodeRequest } from './pairing.js'
import { STEPS as PASSKEY_STEPS } from './passkey.js'
import { bytesOf, child, children, node, SERVER } from './stanza.js'

/** @typedef {import('./connection.js').Connection} Connection */
/** @typedef {import('./stanza.js').Node} Node */
/** @typedef {(connection: Connection, query: Node) => Node[] | {error: number, text: string} | null} Answer - null: silence */

const NO_SUCH = { error: 404, text: 'item-not-found' }

/** @type {Record<string, Answer>} */
const ANSWERS = {
  encrypt: encryption, passive, 'w:g2': groupQuery, usync: userSync, md: multiDevice,
  'w:p': () => [], 'w:stats': () => [], 'urn:xmpp:whatsapp:dirty': () => [], privacy_token: () => [],
  abt: () => [node('props', { protocol: '1', hash: 'sim1' })], w: () => [node('props', { protocol: '2', hash: 'sim1' })], 'w:get': () => [node('props', { protocol: '2', hash: 'sim1' })],
  blocklist: () => [node('list', { dhash: 'none' })],
  privacy: (_connection, query) => (child(query, 'privacy') ? [node('privacy', {}, [node('category', { name: 'readreceipts', value: 'all' })])] : []),
  'w:m': ({ phone }) => [node('media_conn', { auth: 'sim', ttl: '300', auth_ttl: '21600', max_buckets: '12' }, phone.world.mediaHosts.map((hostname) => node('host', { hostname, maxContentLengthBytes: '104857600' })))],
  'w:sync:app:state': appState
}

/** @param {Connection} connection @param {Node} query */
export function answerQuery(connection, query) {
  const { phone } = connection
  const { xmlns = '', id, type } = query.attrs
  if (type === 'result' || type === 'error') return onResult(connection, query)
  const [first] = children(query)
  phone.log.add(xmlns in ANSWERS ? 'query' : 'unknown_iq', { connection: connection.number, xmlns, type, tag: first?.tag, to: query.attrs.to })
  const { queries_per_minute } = phone.realism.switches
  const allowed = within(connection.recentQueries, queries_per_minute, phone.realism.ms('minute_ms'))
  if (phone.faults.take('iq_silence', (fault) => fault.xmlns === xmlns)) return
  const broken = phone.faults.take('iq_error', (fault) => fault.xmlns === xmlns)
  const answer = !allowed ? { error: 429, text: 'rate-overlimit' } : broken ? { error: Number(broken.code ?? 500), text: 'internal-server-error' } : (ANSWERS[xmlns] ?? (() => []))(connection, query)
  if (!answer) return
  const from = query.attrs.to ?? SERVER
  if (Array.isArray(answer)) connection.send(node('iq', { from, type: 'result', id }, answer))
  else connection.send(node('iq', { from, type: 'error', id }, [node('error', { code: String(answer.error), text: answer.text })]))
  if (first?.tag === 'active') announceBacklog(connection)
}

/** @param {Connection} connection @param {Node} result */
function onResult(connection, result) {
  const signed = child(child(result, 'pair-device-sign'), 'device-identity')
  if (!signed) return
  connection.phone.log.add('pair_sign', { connection: connection.number, bytes: bytesOf(signed).length })
  completePairing(connection)
}

/** @type {Answer} */
function passive(connection, query) {
  connection.phone.log.add('passive', { connection: connection.number, tag: children(query)[0]?.tag })
  return []
}

/** @param {Node | undefined} parent @param {string} tag */
const numberIn = (parent, tag) => { const bytes = bytesOf(child(parent, tag)); return bytes.length ? bytes.readUIntBE(0, bytes.length) : 0 }

/** @type {Answer} */
function encryption({ phone, line, number }, query) {
  const companion = line?.companion
  const [first] = children(query)
  if (!companion) return NO_SUCH
  switch (first?.tag) {
    case 'count':
      return [node('count', { value: String(companion.preKeys.size) })]
    case 'digest':
      return [digestNode(companion)]
    case 'key':
      return [node('list', {}, children(first).map((user) => bundleNode(phone, user.attrs.jid)))]
    case 'rotate': {
      const key = child(first, 'skey')
      companion.signedPreKey = { keyId: numberIn(key, 'id'), publicKey: bytesOf(child(key, 'value')), signature: bytesOf(child(key, 'signature')) }
      return []
    }
    default: {
      const keys = children(child(query, 'list'))
      for (const key of keys) companion.preKeys.set(numberIn(key, 'id'), bytesOf(child(key, 'value')))
      phone.log.add('prekeys_uploaded', { connection: number, count: keys.length, available: companion.preKeys.size })
      return []
    }
  }
}

/** What the server has of the client's keys, and a hash over it. @param {import('./companion.js').Companion} companion */
function digestNode({ registrationId, signedPreKey, preKeys, identity }) {
  const number = (/** @type {number} */ value, /** @type {number} */ width) => { const bytes = Buffer.alloc(width); bytes.writeUIntBE(value, 0, width); return bytes }
  const hash = createHash('sha1').update(identity).update(signedPreKey.publicKey).update(signedPreKey.signature)
  for (const key of preKeys.values()) hash.update(key)
  return node('digest', {}, [
    node('registration', {}, number(registrationId, 4)), node('type', {}, Buffer.from([5])), node('identity', {}, identity),
    node('skey', {}, [node('id', {}, number(signedPreKey.keyId, 3)), node('value', {}, signedPreKey.publicKey), node('signature', {}, signedPreKey.signature)]),
    node('list', {}, [...preKeys.keys()].map((id) => node('id', {}, number(id, 3)))), node('hash', {}, hash.digest())
  ])
}

/** @param {import('./phone.js').Phone} phone @param {string | undefined} jid */
function bundleNode(phone, jid) {
  const device = phone.people.byJid(jid)?.device(Number(jid?.split('@')[0]?.split(':')[1] ?? 0))
  if (!device) return node('user', { jid }, [node('error', { code: '404', text: 'item-not-found' })])
  const { registrationId, identity, preKey, signedPreKey } = device.bundle()
  const id = (/** @type {number} */ value, /** @type {number} */ width) => { const bytes = Buffer.alloc(width); bytes.writeUIntBE(value, 0, width); return bytes }
  return node('user', { jid }, [
    node('registration', {}, id(registrationId, 4)), node('type', {}, Buffer.from([5])), node('identity', {}, identity),
    node('key', {}, [node('id', {}, id(preKey.keyId, 3)), node('value', {}, preKey.publicKey)]),
    node('skey', {}, [node('id', {}, id(signedPreKey.keyId, 3)), node('value', {}, signedPreKey.publicKey), node('signature', {}, signedPreKey.signature)])
  ])
}

/** @type {Answer} */
function groupQuery({ phone }, query) {
  if (phone.faults.take('rate_limit_groups')) return { error: 429, text: 'rate-overlimit' }
  const mine = [...phone.groups.values()].filter((group) => group.members.includes(phone.owner))
  if (child(query, 'participating')) return [node('groups', {}, mine.map(groupNode))]
  const group = mine.find(({ id }) => id === query.attrs.to)
  if (child(query, 'query')) return group ? [groupNode(group)] : { error: 403, text: 'forbidden' }
  return { error: 501, text: 'feature-not-implemented' }
}

/** @type {Answer} */
function userSync({ phone }, query) {
  const usync = child(query, 'usync')
  const wanted = children(child(usync, 'query')).map(({ tag }) => tag)
  const users = children(child(usync, 'list')).map((user) => {
    const person = phone.people.byJid(user.attrs.jid ?? `${bytesOf(child(user, 'contact')).toString().replace('+', '')}${SERVER}`)
    return node('user', { jid: user.attrs.jid ?? person?.jid('pn') }, wanted.flatMap((tag) => userFacts(phone, tag, person)))
  })
  return [node('usync', { ...usync?.attrs, mode: undefined }, [node('result', {}), node('list', {}, users.filter(({ attrs }) => attrs.jid))])]
}

/** @param {import('./phone.js').Phone} phone @param {string} tag @param {import('./people.js').Person | undefined} person @returns {Node[]} */
function userFacts(phone, tag, person) {
  if (tag === 'contact') return [node('contact', { type: person ? 'in' : 'out' })]
  if (!person) return []
  if (tag === 'lid') return [node('lid', { val: person.jid('lid') })]
  if (tag !== 'devices') return []
  const own = person === phone.owner ? phone.lines.map(({ companion }) => companion.device) : []
  const numbers = [0, ...own, ...person.devices.keys()].filter((number, index, all) => all.indexOf(number) === index)
  const device = (/** @type {number} */ id) => node('device', { id: String(id), 'key-index': id ? '1' : undefined })
  return [node('devices', {}, [node('device-list', { hash: 'sim' }, numbers.map(device))])]
}

/** @type {Answer} */
function multiDevice(connection, query) {
  const { phone } = connection
  const [first] = children(query)
  if (first && PASSKEY_STEPS.includes(first.tag)) return connection.gate ? connection.gate.answer(first) : NO_SUCH
  if (first?.tag === 'remove-companion-device') {
    phone.log.add('logout', { connection: connection.number, jid: first.attrs.jid, reason: first.attrs.reason })
    phone.unlink(connection.line)
    return []
  }
  if (first?.attrs.stage === 'companion_hello' && phone.realism.switches.check_display && !acceptedDisplay(first)) return { error: 400, text: 'bad-request' }
  if (first?.attrs.stage === 'companion_hello') return [node('link_code_companion_reg', {}, [node('link_code_pairing_ref', {}, rememberCodeRequest(connection, first))])]
  if (first?.attrs.stage === 'companion_finish') rememberBundle(connection, first)
  return []
}

/** @type {Answer} */
function appState({ phone }, query) {
  const asked = children(child(query, 'sync'))
  phone.log.add('app_state', { collections: asked.map(({ attrs }) => attrs.name) })
  return [node('sync', {}, asked.map(({ attrs }) => phone.appState.answer(phone.media, attrs.name ?? '', Number(attrs.version), attrs.return_snapshot === 'true')))]
}
