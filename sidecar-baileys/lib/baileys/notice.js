/**
 * A change in a group, from its `w:gp2` notification: the stanza itself, not what Baileys makes of it.
 *
 * Baileys reads only the first child, and ignores even that if it does not know the tag (docs/whatsapp.md, "Groups").
 */
import { areJidsSameUser, jidNormalizedUser } from 'baileys'

/** How deep and how wide a notification is read. A group has at most 1,024 members. */
const DEPTH_MAX = 6
const CHILDREN_MAX = 1_024
/** Longest text, in bytes: a description has at most 2,048 characters. */
const TEXT_MAX = 8_192

/**
 * @param {import('baileys').BinaryNode} node
 * @param {(jid: string) => boolean} isMe
 * @returns {object} an event of the wire
 */
export function toNotice(node, isMe) {
  const { from, id, participant, participant_pn: pn, participant_lid: lid, t } = node.attrs
  const other = participant?.endsWith('@lid') ? pn : lid
  return {
    type: 'notice',
    key: {
      remoteJid: jidNormalizedUser(from), id, fromMe: Boolean(participant && isMe(participant)),
      ...(participant ? { participant } : {}),
      ...(other && !areJidsSameUser(other, participant) ? { participantAlt: other } : {}),
    },
    notices: children(node, DEPTH_MAX),
    t: String(t ?? 0),
  }
}

/** @param {import('baileys').BinaryNode} node @param {number} depth @returns {object[]} */
function children({ content }, depth) {
  if (!Array.isArray(content) || depth === 0) return []
  return content.slice(0, CHILDREN_MAX).map((child) => ({
    tag: child.tag, attrs: child.attrs, text: text(child.content), children: children(child, depth - 1),
  }))
}

/** @param {import('baileys').BinaryNode['content']} content */
function text(content) {
  if (typeof content === 'string') return content.slice(0, TEXT_MAX)
  return content instanceof Uint8Array ? Buffer.from(content).subarray(0, TEXT_MAX).toString() : null
}
