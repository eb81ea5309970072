/**
 * From a request to a stanza: who writes, to whom, what is in it, how it is encrypted, and whether it is sent now or
 * waits.
 *
 * Everything runs under `phone.inOrder`: a sender's iterations leave in the order they were made, except with faults.
 */
import { randomBytes } from 'node:crypto'
import { proto } from 'baileys'
import { forgedMessage, garbage } from './attacker.js'
import { padMessage, spoil } from './device.js'
import { ControlError } from './errors.js'
import { nowMs } from './journal.js'
import { makeContent } from './content.js'
import { sentKey } from './phone.js'
import { node, SERVER } from './stanza.js'

/** @typedef {import('./phone.js').Phone} Phone */
/** @typedef {import('./line.js').Line} Line */
/** @typedef {import('./stanza.js').Node} Node */
/** @typedef {import('./device.js').Device} Device */
/** @typedef {{duplicate?: boolean, out_of_order?: boolean, tamper_signature?: boolean, corrupt?: boolean, no_skdm?: boolean, unavailable?: boolean, hold?: boolean, never?: boolean, retries?: number, phone?: boolean, again?: boolean, new_session?: boolean, skip?: number, forged?: {counter?: number, previous_counter?: number}, garbage?: number}} MessageFault */

/**
 * @typedef {object} SentMessage
 * @property {'message' | 'status'} tag - of the stanza
 * @property {string} id
 * @property {string} chat - the stanza's `from`
 * @property {string | undefined} participant - the stanza's
 * @property {string | null} group
 * @property {Device} device
 * @property {import('./people.js').Person} person
 * @property {proto.IMessage} message - as encrypted
 * @property {proto.IMessage} inner - without the wrapping for the owner's own devices
 * @property {Record<string, string | undefined>} attrs - of the stanza
 * @property {string | undefined} mediatype
 * @property {MessageFault} fault
 * @property {import('./content.js').Blob | null} blob
 */

/** Statuses are encrypted like group messages, but come as `<status>` stanzas. */
const STATUSES = { id: 'status@broadcast', mode: /** @type {'lid' | 'pn'} */ ('lid') }
const LOW_PREKEYS = 5 // below this the server tells the client
/** @typedef {Map<Line, Node>} Copies one message, as it is encrypted for each device */
/** @type {WeakMap<Phone, Map<string, Copies[]>>} messages that wait for the sender's next one, or for a release, by chat+sender or id */
const heldBack = new WeakMap()

/** @param {Phone} phone */
function held(phone) {
  let map = heldBack.get(phone)
  if (!map) heldBack.set(phone, (map = new Map()))
  return map
}

/**
 * Who gets a message: every device of this account; for a group, also the devices of the other accounts in it.
 * @param {Phone} phone @param {SentMessage} message
 */
function recipients(phone, { group }) {
  const members = (group && phone.groups.get(group)?.members) || []
  const others = phone.world.phones.filter((other) => other !== phone && members.includes(other.owner))
  return [phone, ...others].flatMap(({ lines }) => lines)
}

/** @param {Phone} phone @param {Record<string, any>} request - as documented under `/send` */
export function send(phone, request) {
  return phone.inOrder(async () => {
    if (!phone.lines.length) throw new ControlError(409, 'no device is linked yet')
    const message = prepare(phone, request)
    phone.remember(message)
    const copies = await encrypt(recipients(phone, message), message)
    phone.messagesSent++
    const { fault, person, participant, attrs } = message
    const order = `${message.chat}|${message.participant}`
    const waiting = held(phone)
    if (fault.hold || fault.again) waiting.set(message.id, [copies])
    if (fault.out_of_order) waiting.set(order, [...(waiting.get(order) ?? []), copies])
    else if (!fault.hold) {
      const late = waiting.get(order) ?? []
      waiting.delete(order)
      for (const one of [copies, ...(fault.duplicate ? [copies] : []), ...late]) enqueueCopies(one)
    }
    return {
      id: message.id, sender: person.jid('lid'), participant: participant ?? null, participant_pn: person.jid('pn'), chat: message.group ?? attrs.recipient ?? message.chat,
      t: Number(attrs.t), sent_at_ms: nowMs(), queued: !phone.live, ...(message.blob ? { media: describeBlob(message.blob) } : {})
    }
  })
}

/** Lets messages go that were sent with `hold`. @param {Phone} phone @param {{ids?: string[]}} request */
export function release(phone, { ids = [] }) {
  return phone.inOrder(async () => {
    for (const id of ids) {
      for (const copies of held(phone).get(id) ?? []) enqueueCopies(copies)
      held(phone).delete(id)
    }
    return { released: ids.length }
  })
}

/** @param {import('./content.js').Blob} blob */
function describeBlob({ directPath, fileSha256, fileEncSha256, fileLength }) {
  return { direct_path: directPath, path: directPath.split('?')[0], sha256: fileSha256.toString('hex'), enc_sha256: fileEncSha256.toString('hex'), file_length: fileLength }
}

/** Keeps a stanza for every device of the account, and writes it to those that are there. @param {Phone} phone @param {Node} stanza */
export function enqueue({ lines }, stanza) {
  for (const line of lines) enqueueFor(line, stanza)
}

/** The same for one device. @param {Line} line @param {Node} stanza */
export function enqueueFor({ queue, live, online }, stanza) {
  const entry = queue.add(stanza)
  if (!live || online?.hears(stanza) === false) return
  queue.markSent(entry)
  online?.send(stanza)
}

/** @param {Copies} copies */
function enqueueCopies(copies) {
  for (const [line, stanza] of copies) enqueueFor(line, stanza)
}

/** @param {Phone} phone @param {Record<string, any>} request @returns {SentMessage} */
function prepare(phone, request) {
  const person = phone.people.get(request.from)
  const group = String(request.to).endsWith('@g.us') ? phone.group(request.to) : request.to === 'status' ? STATUSES : null
  const { inner, mediatype, type, blob } = makeContent(phone, request)
  const mode = group?.mode ?? (request.addressing === 'pn' ? 'pn' : 'lid')
  const other = mode === 'lid' ? 'pn' : 'lid'
  const alt = request.omit_alt ? undefined : person.jid(other)
  const device = Number(request.device ?? 0)
  const own = person.jid(mode, device)
  const common = {
    id: request.id ?? `3EB0${randomBytes(9).toString('hex').toUpperCase()}`, t: String(request.t ?? Math.floor(Date.now() / 1000)), type,
    notify: request.push_name ?? person.name
  }
  /** @type {Record<string, string | undefined>} */
  let attrs
  let message = inner
  if (group) attrs = { ...common, from: group.id, participant: own, [`participant_${other}`]: alt, addressing_mode: group === STATUSES ? undefined : mode }
  else if (person !== phone.owner) attrs = { ...common, from: own, [`sender_${other}`]: alt }
  else {
    const to = phone.people.get(request.to)
    attrs = { ...common, from: own, recipient: to.jid(mode), [`peer_recipient_${other}`]: request.omit_alt ? undefined : to.jid(other) }
    message = { deviceSentMessage: { destinationJid: to.jid(mode), message: inner }, messageContextInfo: inner.messageContextInfo }
  }
  return {
    tag: group === STATUSES && request.as !== 'message' ? 'status' : 'message', id: common.id, chat: String(attrs.from), participant: attrs.participant, group: group?.id ?? null, device: person.device(device), person,
    message, inner, attrs: { ...attrs, ...request.attrs }, mediatype, fault: { ...request.fault }, blob
  }
}

/** @param {Line[]} lines @param {SentMessage} message @returns {Promise<Copies>} */
async function encrypt(lines, message) {
  const { group, fault, mediatype } = message
  /** @type {(line: Line) => Node[] | Promise<Node[]>} */
  let parts
  if (fault.unavailable) parts = () => [node('unavailable', { type: 'unknown' })]
  else if (fault.forged || fault.garbage) {
    const ciphertext = fault.forged ? forgedMessage(fault.forged) : garbage(fault.garbage ?? 0)
    parts = () => [node('enc', { v: '2', type: fault.garbage && group ? 'skmsg' : 'msg', mediatype }, ciphertext)]
  } else parts = group ? forGroup(message, group) : (line) => forDevice(line, message)
  /** @type {Copies} */
  const copies = new Map()
  for (const line of lines) copies.set(line, node(message.tag, message.attrs, await parts(line)))
  return copies
}

/** @param {Line} line @param {SentMessage} message */
async function forDevice(line, { device, message, mediatype, fault }) {
  const bundle = fault.new_session ? line.companion.takeBundle({ oneTime: false }) : undefined
  const { type, ciphertext } = await encryptPairwise(line, device, message, { bundle, skip: fault.skip })
  return [node('enc', { v: '2', type, mediatype }, fault.corrupt ? spoil(type, ciphertext) : ciphertext)]
}

/** One ciphertext for all devices; each that does not have the sender's key yet gets it along. @param {SentMessage} message @param {string} group */
function forGroup(message, group) {
  const { device, fault, mediatype } = message
  const key = fault.no_skdm ? device.rotateSenderKey(group) : device.senderKey(group)
  const shared = distribution(message)
  if (fault.skip) key.skip(fault.skip)
  const sealed = key.encrypt(padMessage(message.message), { corrupt: fault.corrupt, tamper: fault.tamper_signature })
  const enc = node('enc', { v: '2', type: 'skmsg', mediatype }, sealed)
  return async (/** @type {Line} */ line) => {
    const { generation } = line.companion
    if (fault.no_skdm || key.sharedWith.has(generation)) return [enc]
    const { type, ciphertext } = await encryptPairwise(line, device, shared)
    key.sharedWith.add(generation)
    return [node('enc', { v: '2', type }, ciphertext), enc]
  }
}

/** The sender's key for the group, as a message to one device. @param {SentMessage} message @returns {proto.IMessage} */
export function distribution({ group, device }) {
  const axolotlSenderKeyDistributionMessage = device.senderKey(group ?? '').distribution()
  return { senderKeyDistributionMessage: { groupId: group, axolotlSenderKeyDistributionMessage } }
}

/**
 * @param {Line} line @param {Device} device @param {proto.IMessage} message
 * @param {{bundle?: import('./device.js').Bundle, skip?: number}} [options] - start a new session with these keys · leave out so many keys
 */
export async function encryptPairwise(line, device, message, { bundle, skip } = {}) {
  const { companion } = line
  if (bundle || !device.hasSession(companion.generation)) {
    await device.startSession(companion.generation, bundle ?? companion.takeBundle())
    if (companion.preKeys.size === LOW_PREKEYS - 1) tellLowPreKeys(line)
  }
  if (skip) device.skip(companion.generation, skip)
  return device.encrypt(companion.generation, padMessage(message))
}

/** @param {Line} line */
function tellLowPreKeys(line) {
  const count = String(line.companion.preKeys.size)
  line.phone.log.add('prekeys_low', { count })
  enqueueFor(line, node('notification', { from: SERVER, type: 'encrypt', id: randomBytes(6).toString('hex'), t: String(Math.floor(Date.now() / 1000)) }, [node('count', { value: count })]))
}

/**
 * A message from the owner's phone to one of its linked devices.
 * @param {Line | undefined} line @param {proto.IMessage} message
 * @param {{queued?: boolean}} [options] - whether it is kept until receipted
 */
export async function sendPeer(line, message, { queued = true } = {}) {
  if (!line) throw new ControlError(409, 'no device is linked')
  const { owner, world } = line.phone
  return world.inOrder(async () => {
    const { type, ciphertext } = await encryptPairwise(line, owner.device(), message)
    const id = randomBytes(8).toString('hex').toUpperCase()
    const attrs = { from: owner.jid('lid'), id, t: String(Math.floor(Date.now() / 1000)), type: 'text', category: 'peer', push_priority: 'high' }
    const stanza = node('message', attrs, [node('enc', { v: '2', type }, ciphertext)])
    if (queued) enqueueFor(line, stanza)
    else if (line.live) line.online?.send(stanza)
    return { id }
  })
}

/** The earlier message that a receipt names, by either of its sender's addresses. @param {Phone} phone @param {string} chat @param {string | undefined} participant @param {string} id */
export function findSent(phone, chat, participant, id) {
  const exact = phone.sent.get(sentKey(chat, participant, id))
  const person = exact ? undefined : phone.people.byJid(participant ?? chat)
  if (!person) return exact
  const key = (/** @type {'lid' | 'pn'} */ mode) => (participant ? sentKey(chat, person.jid(mode), id) : sentKey(person.jid(mode), undefined, id))
  return phone.sent.get(key('lid')) ?? phone.sent.get(key('pn'))
}
