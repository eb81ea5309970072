/** Other stanzas that an account gets: calls and bot messages. Sent as the real ones look, not as raw stanzas. */
import { randomBytes } from 'node:crypto'
import { ControlError } from './errors.js'
import { enqueue, send } from './send.js'
import { node } from './stanza.js'

/** @typedef {import('./phone.js').Phone} Phone */

const BOT = '867051314767696@bot'
const seconds = () => String(Math.floor(Date.now() / 1000))

/** Somebody calls; `end` hangs up. @param {Phone} phone @param {{from?: string, what?: 'offer' | 'terminate', call_id?: string, video?: boolean}} request */
export function call(phone, { from = 'Ana', what = 'offer', call_id = randomBytes(16).toString('hex').toUpperCase(), video = false }) {
  if (what !== 'offer' && what !== 'terminate') throw new ControlError(400, 'what is offer or terminate')
  const caller = phone.people.get(from)
  const id = randomBytes(8).toString('hex').toUpperCase()
  const content = video && what === 'offer' ? [node('video', { enc: 'vp8' })] : []
  enqueue(phone, node('call', { from: caller.jid('lid'), id, t: seconds(), notify: caller.name }, [
    node(what, { 'call-id': call_id, 'call-creator': caller.jid('lid'), caller_pn: caller.jid('pn') }, content)
  ]))
  return { id, call_id }
}

/** A bot answers in a group or a chat: encrypted with a message's secret, which a companion may not have. @param {Phone} phone @param {{to?: string}} request */
export function sendBotMessage(phone, { to = 'direct' }) {
  const id = randomBytes(8).toString('hex').toUpperCase()
  const where = to === 'direct' ? { from: BOT } : { from: phone.group(to).id, participant: BOT }
  enqueue(phone, node('message', { ...where, id, t: seconds(), type: 'text' }, [
    node('meta', { target_id: randomBytes(8).toString('hex').toUpperCase(), target_sender_jid: phone.owner.jid('lid') }),
    node('bot', { edit: 'full' }), node('enc', { v: '2', type: 'msmsg' }, randomBytes(80))
  ]))
  return { id }
}

/**
 * Revokes a message, by its sender (`edit` 7) or by somebody else who claims to be an admin (8). Nothing is checked, as
 * on the real server.
 * @param {Phone} phone @param {{from: string, to: string, id: string, edit?: '7' | '8'}} request
 */
export function revoke(phone, { from, to, id, edit }) {
  const message = [...phone.sent.values()].findLast((one) => one.id === id)
  if (!message) throw new ControlError(404, `no message ${id}`)
  const own = message.person === phone.people.get(from)
  const key = { remoteJid: message.chat, id, fromMe: own, ...(message.participant ? { participant: message.participant } : {}) }
  return send(phone, { from, to, message: { protocolMessage: { type: 'REVOKE', key } }, attrs: { edit: edit ?? (own ? '7' : '8') } })
}
