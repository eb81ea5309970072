/**
 * Which keys Baileys will read to decrypt a message, by the names that it and libsignal give them. Pure.
 *
 * For a new sender it reads five, one after the other, and it decrypts one message after the other: with a database 250
 * ms away, that is one message a second. If we request them when the message arrives, they are here when its turn
 * comes. A wrong name here costs a read, nothing else.
 */
import { jidDecode } from 'baileys'

/** What Baileys appends to the user of a LID (`WAJIDDomains.LID`). */
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
