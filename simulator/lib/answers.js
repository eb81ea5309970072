/** Whether a client's answer fits a stanza: its address and its subject. Decides nothing else. */

/** @typedef {import('./stanza.js').Node} Node */

/** @param {string | undefined} jid - an address without its device's number */
const bare = (jid) => (jid ?? '').replace(/:\d+@/, '@').replace(/^@/, '')

/**
 * What is wrong with an ack. `type` is carried for every class but messages (whatsmeow `sendAck`; Baileys adds it there too).
 * @param {Node} stanza @param {Record<string, string>} ack @returns {string | null} the attribute's name
 */
export function wrongInAck({ tag, attrs }, ack) {
  if (ack.class !== tag) return 'class'
  if (bare(ack.to) !== bare(attrs.from)) return 'to'
  if (bare(ack.participant) !== bare(attrs.participant)) return 'participant'
  if (bare(ack.recipient) !== bare(attrs.recipient)) return 'recipient'
  if (tag !== 'message' && ack.type !== attrs.type) return 'type'
  return null
}
