/** Credentials, keys and messages as text, and back. */
import { BufferJSON, proto } from 'baileys'
import { trimSenderKeys, trimSession } from './key_records.js'

/**
 * @param {string} type Baileys' key type
 * @param {any} value
 * @returns {string}
 */
export function serialise(type, value) {
  const kept = type === 'session' ? trimSession(value) : type === 'sender-key' ? repairSenderKey(value) : value
  return JSON.stringify(kept, BufferJSON.replacer)
}

/**
 * @param {string} type
 * @param {string} text
 * @returns {any}
 * @throws {SyntaxError} if the text is corrupt
 */
export function revive(type, text) {
  const value = JSON.parse(text, BufferJSON.reviver)
  // `create` would give empty keys, and an endless resync (docs/whatsapp.md, "Auth state").
  return type === 'app-state-sync-key' ? proto.Message.AppStateSyncKeyData.fromObject(value) : value
}

/**
 * A sender key is a Buffer of JSON. Baileys writes the seeds of skipped messages into it as `{type, data: [numbers]}`,
 * which its own reviver does not know, so such messages would never decrypt (docs/whatsapp.md, "Holding frames").
 * @param {any} value
 */
function repairSenderKey(value) {
  if (!(value instanceof Uint8Array)) return value
  const states = JSON.parse(Buffer.from(value).toString('utf8'))
  const kept = Array.isArray(states) ? trimSenderKeys(states) : states
  return Buffer.from(JSON.stringify(kept, BufferJSON.replacer))
}

/** @param {any} creds */
export const serialiseCreds = (creds) => JSON.stringify(creds, BufferJSON.replacer)

const CREDENTIAL_FIELDS = ['noiseKey', 'signedIdentityKey', 'signedPreKey', 'registrationId', 'advSecretKey']

/**
 * @param {string} text
 * @returns {import('baileys').AuthenticationCreds}
 * @throws {Error} if it is corrupt: that must never be taken for "no credentials"
 */
export function reviveCreds(text) {
  const creds = JSON.parse(text, BufferJSON.reviver)
  const missing = CREDENTIAL_FIELDS.filter((field) => creds?.[field] === undefined)
  if (missing.length > 0) throw new Error(`the stored credentials lack ${missing.join(', ')}`)
  return creds
}

/** Levels of a message that the worker gets. It keeps 24; its JSON parser fails at about a thousand. */
export const MAX_DEPTH = 100

/**
 * @param {import('baileys').proto.IMessage} message
 * @returns {object} protobuf JSON: 64-bit integers as strings, bytes as base64, enums by name; null below `MAX_DEPTH`
 * @throws {RangeError} if it has thousands of levels
 */
export function messageToJson(message) {
  const json = proto.Message.toObject(/** @type {any} */ (message), { longs: String, enums: String, bytes: String })
  cut(json, MAX_DEPTH - 1)
  return json
}

/** @param {Record<string, any>} value an object or a list @param {number} levels that may lie below it */
function cut(value, levels) {
  for (const [name, item] of Object.entries(value)) {
    if (item === null || typeof item !== 'object') continue
    if (levels > 0) cut(item, levels - 1)
    else value[name] = null
  }
}
