/** Events of the wire from Baileys' events: everything that is not in a message stanza. Pure: one event in, events out.
 * */
import { proto } from 'baileys'

const { StubType } = proto.WebMessageInfo

/**
 * @param {string} name of Baileys' event
 * @param {any} data
 * @param {(jid: string) => boolean} isMe
 * @returns {object[]}
 */
export function toWireEvents(name, data, isMe) {
  switch (name) {
    case 'groups.upsert':
    case 'groups.update':
      return data.flatMap((/** @type {any} */ group) => (typeof group.subject === 'string'
        ? [{ type: 'group', id: group.id, subject: group.subject, left: false, ...knownAdmins(group) }] : []))
    case 'group-participants.update':
      return participants(data, isMe)
    case 'lid-mapping.update':
      return [data].flat().flatMap(({ lid, pn }) => (lid && pn ? [{ type: 'identity', lid, pn }] : []))
    case 'messages.upsert':
      return data.messages.flatMap(system)
    default:
      return []
  }
}

/** @param {any} group of Baileys; the update of a name has no participants */
const knownAdmins = (group) => (Array.isArray(group.participants) ? { admins: adminsOf(group) } : {})

/** Every address of each admin. @param {any} group of Baileys, with its participants @returns {string[]} */
export const adminsOf = ({ participants: people = [] }) =>
  people.filter((/** @type {any} */ { admin }) => admin).flatMap(addressesOf)

/** Members in one answer on the wire, of all groups together: 11 MB of its 32. */
const MEMBERS_MAX = 100_000
/** @typedef {{id: string, also: string | null, role: 'member' | 'admin' | 'superadmin'}} Member */

/**
 * The members of these groups, in the order of the groups; none for a group that does not fit any more.
 * @param {any[]} groups of Baileys @param {Set<string>} wanted ids
 * @returns {Map<string, Member[]>}
 */
export function membersOf(groups, wanted) {
  const found = new Map()
  let room = MEMBERS_MAX
  for (const { id, participants = [] } of groups) {
    if (!wanted.has(id) || participants.length > room) continue
    room -= participants.length
    found.set(id, participants.flatMap((/** @type {any} */ person) => {
      const [first, also = null] = addressesOf(person)
      const role = person.admin === 'superadmin' || person.admin === 'admin' ? person.admin : 'member'
      return first ? [{ id: first, also, role }] : []
    }))
  }
  return found
}

/**
 * Pairs of addresses, in parts of a size that suits the log.
 * @param {Member[]} members
 * @param {(lid: string, pn: string) => boolean} isNews
 * @returns {object[][]}
 */
export function identitiesOf(members, isNews) {
  const pairs = members.flatMap(({ id, also }) => {
    const [lid, pn] = id.endsWith('@lid') ? [id, also] : [also, id]
    if (!lid?.endsWith('@lid') || !pn?.endsWith('@s.whatsapp.net')) return []
    return isNews(lid, pn) ? [{ type: 'identity', lid, pn }] : []
  })
  const parts = []
  for (let at = 0; at < pairs.length; at += IDENTITIES_A_PART) parts.push(pairs.slice(at, at + IDENTITIES_A_PART))
  return parts
}
const IDENTITIES_A_PART = 500

/** @param {any} person a participant of Baileys @returns {string[]} */
const addressesOf = ({ id, lid, phoneNumber }) => [id, lid, phoneNumber].filter(Boolean)

/** What becomes of whoever is named, by Baileys' name of what happened. @type {Record<string, string>} */
const RANKS = { promote: 'promoted', demote: 'demoted', remove: 'demoted', leave: 'demoted' }

/** @param {any} update @param {(jid: string) => boolean} isMe */
function participants(update, isMe) {
  const people = (update.participants ?? []).map((/** @type {any} */ person) =>
    typeof person === 'string' ? { id: person } : person)
  const events = people.flatMap((/** @type {any} */ person) => {
    const lid = person.lid ?? (person.id?.endsWith('@lid') ? person.id : undefined)
    const pn = person.phoneNumber ?? (person.id?.endsWith('@s.whatsapp.net') ? person.id : undefined)
    return lid && pn ? [{ type: 'identity', lid, pn }] : []
  })
  const rank = RANKS[update.action]
  if (rank) events.push({ type: 'admins', id: update.id, promoted: [], demoted: [], [rank]: people.flatMap(addressesOf) })
  const me = people.some((/** @type {any} */ { id, lid, phoneNumber }) =>
    [id, lid, phoneNumber].some((jid) => jid && isMe(jid)))
  if (me && update.action === 'remove') events.push({ type: 'group', id: update.id, left: true })
  if (me && update.action === 'add') events.push({ type: 'group', id: update.id, left: false })
  return events
}

/**
 * A system notice has a stub type and no content. CIPHERTEXT marks an undecryptable message, which the log already has
 * as a stanza. Group stubs are Baileys' reading of `w:gp2` notifications, which the log has as notices; only that of a
 * new picture comes from another notification.
 * @param {any} message
 */
function system(message) {
  const { messageStubType: stub } = message
  if (message.message || !stub || stub === StubType.CIPHERTEXT) return []
  const name = StubType[stub] ?? String(stub)
  if (name.startsWith('GROUP_') && stub !== StubType.GROUP_CHANGE_ICON) return []
  return [{
    type: 'system',
    key: { ...message.key },
    stub_type: name,
    stub_parameters: (message.messageStubParameters ?? []).map(String),
    t: String(message.messageTimestamp ?? 0),
  }]
}
