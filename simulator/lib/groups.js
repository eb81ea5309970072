/** Groups: making and changing them, how they look on the wire, and telling the client. */
import { randomBytes, randomInt } from 'node:crypto'
import { enqueue } from './send.js'
import { ControlError } from './errors.js'
import { node } from './stanza.js'

/** @typedef {import('./people.js').Group} Group */
/** @typedef {import('./phone.js').Phone} Phone */

/** @param {Phone} phone @param {{subject?: string, participants?: string[], addressing_mode?: string, notify?: boolean, id?: string, community?: string | null}} request */
export async function createGroup(phone, { subject, community = null, participants = [], addressing_mode = 'lid', notify = true, id = newGroupId() }) {
  if (!subject) throw new ControlError(400, 'a group needs a subject')
  if (addressing_mode !== 'lid' && addressing_mode !== 'pn') throw new ControlError(400, 'addressing_mode is lid or pn')
  const others = participants.filter((name) => name !== 'me').map((name) => phone.people.get(name))
  const now = Math.floor(Date.now() / 1000)
  /** @type {Group} */
  const group = { id, subject, mode: addressing_mode, members: [phone.owner, ...others], creator: others[0] ?? phone.owner, past: new Set(), admins: [], community, created: now, renamed: now }
  phone.groups.set(id, group)
  if (notify) await tell(phone, group, group.creator, node('create', { type: 'new', key: randomBytes(8).toString('hex') }, [groupNode(group)]))
  return describe(phone, group)
}

const newGroupId = () => `120363${String(randomInt(1e12)).padStart(12, '0')}@g.us`

/** @param {Phone} phone @param {Group} group */
export function describe(phone, group) {
  const participants = group.members.map((member) => (member === phone.owner ? 'me' : member.name))
  return { id: group.id, subject: group.subject, addressing_mode: group.mode, participants, left: !group.members.includes(phone.owner) }
}

/** @param {Phone} phone @param {{id: string, subject: string, by?: string, notify?: boolean}} request */
export async function renameGroup(phone, { id, subject, by, notify = true }) {
  const group = phone.group(id)
  group.subject = subject
  group.renamed = Math.floor(Date.now() / 1000)
  const author = by ? phone.people.get(by) : group.creator
  if (notify) await tell(phone, group, author, node('subject', { subject, s_t: String(group.renamed), s_o: author.jid(group.mode) }))
  return describe(phone, group)
}

/** @param {Phone} phone @param {{id: string, who?: string}} request */
export async function leaveGroup(phone, { id, who = 'me' }) {
  const group = phone.group(id)
  const person = phone.people.get(who)
  await tell(phone, group, person, node('remove', {}, [participantNode(group, person)]))
  forget(group, [person])
  return describe(phone, group)
}

/** By the creator, or each by the invite link. @param {Phone} phone @param {{id: string, participants?: string[], by_link?: boolean}} request */
export async function addMembers(phone, { id, participants = [], by_link = false }) {
  const group = phone.group(id)
  const added = participants.map((name) => phone.people.get(name)).filter((person) => !group.members.includes(person))
  group.members.push(...added)
  for (const person of added) group.past.delete(person)
  const joined = added.map((person) => participantNode(group, person))
  if (!by_link) await tell(phone, group, group.creator, node('add', {}, joined))
  for (const [place, person] of added.entries()) if (by_link) await tell(phone, group, person, node('add', { reason: 'invite' }, joined.slice(place, place + 1)))
  return describe(phone, group)
}

/** @param {Phone} phone @param {{id: string, participants?: string[], notify?: boolean}} request */
export async function removeMembers(phone, { id, participants = [], notify = true }) {
  const group = phone.group(id)
  const removed = participants.map((name) => phone.people.get(name))
  if (notify) await tell(phone, group, group.creator, node('remove', {}, removed.map((person) => participantNode(group, person))))
  forget(group, removed)
  return describe(phone, group)
}

/** @param {Phone} phone @param {{id: string, promote?: string[], demote?: string[]}} request */
export async function changeAdmins(phone, { id, promote = [], demote = [] }) {
  const group = phone.group(id)
  const [up, down] = [promote, demote].map((names) => names.map((name) => phone.people.get(name)))
  group.admins = [...new Set([...group.admins, ...(up ?? [])])].filter((person) => !down?.includes(person))
  for (const [tag, people] of /** @type {const} */ ([['promote', up], ['demote', down]])) {
    if (people?.length) await tell(phone, group, group.creator, node(tag, {}, people.map((person) => participantNode(group, person))))
  }
  return { ...describe(phone, group), admins: group.admins.map(({ name }) => name) }
}

/** The members are named by the other kind of address from now on; those who write make new keys. @param {Phone} phone @param {{id: string, addressing_mode: string}} request */
export async function changeAddressing(phone, { id, addressing_mode }) {
  if (addressing_mode !== 'lid' && addressing_mode !== 'pn') throw new ControlError(400, 'addressing_mode is lid or pn')
  const group = phone.group(id)
  group.mode = addressing_mode
  forget(group, [])
  return describe(phone, group)
}

/** Those who stay write with new keys. @param {Group} group @param {import('./people.js').Person[]} gone */
function forget(group, gone) {
  group.members = group.members.filter((member) => !gone.includes(member))
  for (const person of gone) group.past.add(person)
  for (const member of group.members) for (const device of member.devices.values()) device.rotateSenderKey(group.id)
}

/** To the accounts in it, also one that is about to leave. @param {Phone} phone @param {Group} group @param {import('./people.js').Person} author @param {import('./stanza.js').Node} content */
function tell(phone, group, author, content) {
  const other = group.mode === 'lid' ? 'pn' : 'lid'
  const stanza = node('notification', {
    from: group.id, type: 'w:gp2', id: String(randomInt(1e9)), participant: author.jid(group.mode), [`participant_${other}`]: author.jid(other),
    t: String(Math.floor(Date.now() / 1000)), notify: author.name, addressing_mode: group.mode
  }, [content])
  for (const one of phone.world.phones) if (one === phone || group.members.includes(one.owner)) enqueue(one, stanza)
}

/** The groups that an account is in, or was. @param {Phone} phone */
export function groupsOf({ groups, owner }) {
  return [...groups.values()].filter(({ members, past }) => members.includes(owner) || past.has(owner))
}

/** @param {Group} group @param {import('./people.js').Person} person */
function participantNode(group, person) {
  const type = person === group.creator ? 'superadmin' : group.admins.includes(person) ? 'admin' : undefined
  return group.mode === 'lid'
    ? node('participant', { jid: person.jid('lid'), phone_number: person.jid('pn'), type })
    : node('participant', { jid: person.jid('pn'), lid: person.jid('lid'), type })
}

/** @param {Group} group */
export function groupNode(group) {
  const { id, subject, mode, members, creator } = group
  return node('group', {
    id: id.split('@')[0], subject, s_t: String(group.renamed), s_o: creator.jid(mode), creation: String(group.created), creator: creator.jid(mode),
    creator_pn: mode === 'lid' ? creator.jid('pn') : undefined, addressing_mode: mode, size: String(members.length)
  }, [...(group.community ? [node('linked_parent', { jid: group.community })] : []), ...members.map((person) => participantNode(group, person))])
}
