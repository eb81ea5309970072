/**
 * Which keys Baileys will read to open a message, by the names that it and libsignal give them. Pure.
 *
 * For somebody new it reads five, one after the other, and it opens one message after the other: with a database that
 * is 250 ms away a message a second. Asked for when the message arrives, they are there when its turn comes. A wrong
 * name here costs a read, nothing else.
 */
import { jidDecode } from 'baileys'

/** What Baileys puts behind the user of a LID (`WAJIDDomains.LID`). */
const LID_DOMAIN = '_1'

/**
 * @param {Record<string, string | undefined>} attrs of the message's stanza
 * @returns {Record<string, string[]>} type → ids
 */
export function keysToOpen(attrs) {
  const { from, participant, participant_lid, participant_pn, sender_lid, sender_pn } = attrs
  const author = jidDecode(participant ?? from)
  const forms = [author, ...[participant_lid, sender_lid, participant_pn, sender_pn].map((jid) => jidDecode(jid))]
  const lid = forms.find((form) => form?.server === 'lid')
  const number = forms.find((form) => form?.server === 's.whatsapp.net')
  const address = lid ?? number
  if (!author || !address) return {}
  const session = nameOf(address, author.device)
  return {
    ...(number && { 'lid-mapping': [number.user], 'device-list': [number.user] }),
    'identity-key': [session.join('.')],
    session: [session.join('.')],
    // By the address that the stanza names, while the session is always that of the LID.
    ...(from?.endsWith('@g.us') && { 'sender-key': [[from, ...nameOf(author, author.device)].join('::')] }),
  }
}

/** @param {{user: string, server: string}} address @param {number} [device] */
const nameOf = ({ user, server }, device = 0) => [server === 'lid' ? `${user}${LID_DOMAIN}` : user, device]
