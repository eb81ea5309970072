/** The receipt that Baileys would send, for a stanza that it never sees. */

export const CHAT_OF_TWO = /@(lid|s\.whatsapp\.net)$/

/**
 * @param {import('./stanza.js').Stanza} stanza a redelivery
 * @param {boolean} active the account is shown as online
 * @returns {[string, string | undefined, string[], string | undefined] | null} JID, participant, ids and type for
 *   `sock.sendReceipt`; null if the stanza cannot be receipted
 */
export function receiptFor({ key, node }, active) {
  if (!key?.remoteJid || !key.id) return null
  const type = node.attrs.category === 'peer' ? 'peer_msg' : key.fromMe ? 'sender' : active ? undefined : 'inactive'
  const toMyself = type === 'sender' && CHAT_OF_TWO.test(key.remoteJid)
  const participant = toMyself ? (node.attrs.participant ?? node.attrs.from) : key.participant
  return [key.remoteJid, participant ?? undefined, [key.id], type]
}
