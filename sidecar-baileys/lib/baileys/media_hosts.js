/** Which hosts have files now. Baileys' `refreshMediaConn` would keep a failure for the life of the socket. */
import { getBinaryNodeChild, getBinaryNodeChildren, S_WHATSAPP_NET } from 'baileys'

/** Without an answer the worker goes on, and asks again. */
const ANSWER_MS = 8_000

/**
 * @param {any} sock
 * @returns {Promise<{hosts: string[], ttl_s: number}>} names, the best one first, and for how long they hold
 * @throws {Error} if WhatsApp refuses or does not answer
 */
export async function mediaHosts(sock) {
  const content = [{ tag: 'media_conn', attrs: {} }]
  const answer = await sock.query({ tag: 'iq', attrs: { to: S_WHATSAPP_NET, type: 'set', xmlns: 'w:m' }, content }, ANSWER_MS)
  const told = getBinaryNodeChild(answer, 'media_conn')
  const hosts = getBinaryNodeChildren(told, 'host').map(({ attrs }) => attrs.hostname)
  const ttl = Number(told?.attrs.ttl)
  return { hosts: hosts.filter((host) => host !== undefined), ttl_s: Number.isFinite(ttl) ? ttl : 0 }
}
