/** How credentials, keys and messages become text and come back. */
import { BufferJSON, proto } from 'baileys'

/**
 * @param {string} type Baileys' key type
 * @param {any} value
 * @returns {string}
 */
export function serialise(type, value) {
  return JSON.stringify(type === 'sender-key' ? repairSenderKey(value) : value, BufferJSON.replacer)
}

/**
 * @param {string} type
 * @param {string} text
 * @returns {any}
 * @throws {SyntaxError} if the text is torn
 */
export function revive(type, text) {
  const value = JSON.parse(text, BufferJSON.reviver)
  // `create` would give empty keys and an endless resync (FACTS §7).
  return type === 'app-state-sync-key' ? proto.Message.AppStateSyncKeyData.fromObject(value) : value
}

/**
 * A sender key is a Buffer of JSON in which Baileys leaves the seeds of skipped messages as `{type, data: [numbers]}`, a
 * form that its own reviver does not know: such messages would never decrypt (FACTS §1, point 8).
 * @param {any} value
 */
function repairSenderKey(value) {
  if (!(value instanceof Uint8Array)) return value
  return Buffer.from(JSON.stringify(JSON.parse(Buffer.from(value).toString('utf8')), BufferJSON.replacer))
}

/** @param {any} creds */
export const serialiseCreds = (creds) => JSON.stringify(creds, BufferJSON.replacer)

const CREDENTIAL_FIELDS = ['noiseKey', 'signedIdentityKey', 'signedPreKey', 'registrationId', 'advSecretKey']

/**
 * @param {string} text
 * @returns {import('baileys').AuthenticationCreds}
 * @throws {Error} if it is torn: that must never be taken for "no credentials"
 */
export function reviveCreds(text) {
  const creds = JSON.parse(text, BufferJSON.reviver)
  const missing = CREDENTIAL_FIELDS.filter((field) => creds?.[field] === undefined)
  if (missing.length > 0) throw new Error(`the stored credentials lack ${missing.join(', ')}`)
  return creds
}

/**
 * @param {import('baileys').proto.IMessage} message
 * @returns {object} protobuf JSON: 64-bit integers as strings, bytes as base64, enums by name
 */
export function messageToJson(message) {
  return proto.Message.toObject(/** @type {any} */ (message), { longs: String, enums: String, bytes: String })
}
