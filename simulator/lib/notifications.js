/** Notifications of every type that the real server sends, with content of the right shape; what newsletters publish; changes of the app state. */
import { randomBytes, randomInt } from 'node:crypto'
import { proto } from 'baileys'
import { ControlError } from './errors.js'
import { enqueue } from './send.js'
import { node, SERVER } from './stanza.js'

/** @typedef {import('./phone.js').Phone} Phone */
/** @typedef {import('./app-state.js').Entry} Entry */
/** @typedef {import('./stanza.js').Node} Node */

const seconds = () => String(Math.floor(Date.now() / 1000))

/**
 * By type: who it is from, and what it holds. The types are those of whatsmeow's `handleNotification`, and the ones it names and
 * ignores. `w:gp2`, `mediaretry` and the ones of pairing come from what causes them.
 * @type {Record<string, (phone: Phone, request: any) => {from: string, content: Node[]}>}
 */
const TYPES = {
  encrypt: (phone, { from }) => ({ from: who(phone, from), content: [node('identity')] }),
  server_sync: (_phone, { collections = ['regular'], version = 1 }) => ({
    from: SERVER, content: collections.map((/** @type {string} */ name) => node('collection', { name, version: String(version) }))
  }),
  account_sync: (phone) => ({ from: phone.owner.jid('pn'), content: [node('blocklist', { action: 'modify', dhash: 'sim' }, [])] }),
  devices: (phone, { from }) => ({ from: who(phone, from), content: [node('update', { hash: 'sim' })] }),
  'fbid:devices': (phone, { from }) => ({ from: who(phone, from), content: [node('devices', { dhash: 'sim' })] }),
  picture: (phone, { from }) => ({ from: who(phone, from), content: [node('set', { jid: who(phone, from), id: String(randomInt(1e9)), author: who(phone, from) })] }),
  privacy_token: (phone, { from }) => ({
    from: who(phone, from), content: [node('tokens', {}, [node('token', { jid: who(phone, from), type: 'trusted_contact', t: seconds() }, randomBytes(11))])]
  }),
  newsletter: () => ({ from: '120363000000000001@newsletter', content: [node('live_updates', {}, [node('messages', { t: seconds() }, [])])] }),
  mex: () => ({ from: SERVER, content: [node('update', { op_name: 'NotificationUserReachoutTimelockUpdate' }, Buffer.from('{"data":{}}'))] }),
  status: (phone, { from, text = 'at work' }) => ({ from: who(phone, from), content: [node('set', {}, Buffer.from(text))] }),
  business: (phone, { from }) => ({ from: who(phone, from), content: [node('verified_name', { jid: who(phone, from), v: '1' })] }),
  disappearing_mode: (phone, { from }) => ({ from: who(phone, from), content: [node('disappearing_mode', { duration: '86400', t: seconds() })] }),
  server: () => ({ from: SERVER, content: [node('log')] }),
  pay: () => ({ from: SERVER, content: [node('transaction')] }),
  psa: () => ({ from: SERVER, content: [node('psa')] })
}

/** @param {Phone} phone @param {string} [name] */
const who = (phone, name = 'Ana') => phone.people.get(name).jid('pn')

/** @param {Phone} phone @param {{type: string} & Record<string, any>} request - `type: "all"`: one of each @returns {{items: {id: string, type: string}[]}} */
export function notify(phone, request) {
  const types = request.type === 'all' ? Object.keys(TYPES) : [request.type]
  return { items: types.map((type) => {
    const make = TYPES[type]
    if (!make) throw new ControlError(400, `no notification ${type}; there are ${Object.keys(TYPES).join(', ')}`)
    const { from, content } = make(phone, request)
    const id = randomBytes(8).toString('hex')
    enqueue(phone, node('notification', { from, type, id, t: seconds() }, content))
    return { id, type }
  }) }
}

/**
 * The phone changes the app state, and the server tells the devices that are linked.
 * @param {Phone} phone
 * @param {{collection?: string, entries?: Entry[], contacts?: number, snapshot?: boolean, notify?: boolean}} request - `contacts`: so many invented ones
 */
export function writeAppState(phone, { collection: name = 'critical_unblock_low', entries = [], contacts = 0, snapshot, notify: told = true }) {
  const collection = phone.appState.collection(name)
  if (snapshot !== undefined) collection.snapshot = Boolean(snapshot)
  const version = phone.appState.write(name, [...entries, ...Array.from({ length: contacts }, (_, i) => contact(phone, i))])
  if (told) notify(phone, { type: 'server_sync', collections: [name], version })
  return { collection: name, version, entries: collection.records.size }
}

/** @param {Phone} phone @param {number} i @returns {Entry} */
function contact(phone, i) {
  const person = phone.people.get(`Stranger ${i}`)
  return { index: ['contact', person.jid('pn')], value: { contactAction: { fullName: `${person.name} of the phone book`, firstName: person.name, lidJid: person.jid('lid') } } }
}

/** A newsletter publishes in plain text. @param {Phone} phone @param {{id?: string, text?: string, as?: 'message' | 'status'}} request */
export function sendNewsletter(phone, { id = '120363000000000001@newsletter', text = 'news', as = 'message' }) {
  const stanza = { id: randomBytes(8).toString('hex').toUpperCase(), from: id, t: seconds(), type: 'text', server_id: String(randomInt(100, 1e6)) }
  enqueue(phone, node(as, stanza, [node('plaintext', {}, Buffer.from(proto.Message.encode({ conversation: text }).finish()))]))
  return { id: stanza.id }
}
