/**
 * The contract (docs/contract.md) as it is mostly written: one Node process, Baileys' events, supabase-js. It follows the
 * advice of their documentation: keys in a cache, one request for all messages of an event and for all keys of a
 * change, connections that stay open, one retry. `node bench/naive/index.js`, and its tables are in schema.sql.
 */
import { BufferJSON, initAuthCreds, makeCacheableSignalKeyStore } from 'baileys'
import pino from 'pino'
import { createClient } from '@supabase/supabase-js'
import { connect, tell } from './baileys.js'

const { SUPABASE_URL = '', SUPABASE_SERVICE_KEY = '' } = process.env
const supabase = createClient(SUPABASE_URL, SUPABASE_SERVICE_KEY, { auth: { persistSession: false } })
for (const level of /** @type {const} */ (['info', 'warn', 'error'])) console[level] = () => {} // libsignal prints keys

/** @param {() => PromiseLike<{data?: any, error: any}>} query */
async function once(query) {
  let { data, error } = await query()
  if (error) ({ data, error } = await query())
  if (error) throw new Error(error.message)
  return data
}

/** @param {unknown} value */
const packed = (value) => JSON.parse(JSON.stringify(value, BufferJSON.replacer))
/** @param {unknown} value */
const revived = (value) => JSON.parse(JSON.stringify(value), BufferJSON.reviver)

const [found] = await once(() => supabase.from('naive_keys').select('value').eq('name', 'creds'))
const creds = found ? revived(found.value) : initAuthCreds()

const store = {
  /** @param {string} type @param {string[]} ids @returns {Promise<any>} */
  get: async (type, ids) => {
    const rows = await once(() => supabase.from('naive_keys').select('name,value').in('name', ids.map((id) => `${type}-${id}`)))
    return Object.fromEntries(rows.map((/** @type {any} */ { name, value }) => [name.slice(type.length + 1), revived(value)]))
  },
  /** @param {any} data */
  set: async (data) => {
    const all = Object.entries(data).flatMap(([type, entries]) => Object.entries(entries).map(([id, value]) => ({ name: `${type}-${id}`, value })))
    const rows = all.filter(({ value }) => value).map(({ name, value }) => ({ name, value: packed(value) }))
    const gone = all.filter(({ value }) => !value).map(({ name }) => name)
    if (rows.length) await once(() => supabase.from('naive_keys').upsert(rows))
    if (gone.length) await once(() => supabase.from('naive_keys').delete().in('name', gone))
  },
}

/** @param {any[]} messages */
async function ingest(messages) {
  const rows = messages.filter(({ key, message }) => message && key.remoteJid.endsWith('@g.us')).map(({ key, message, messageTimestamp, pushName }) => ({
    id: key.id, chat: key.remoteJid, sender: key.participant, push_name: pushName, ts: new Date(Number(messageTimestamp) * 1000).toISOString(),
    text: message.conversation ?? message.extendedTextMessage?.text ?? null, raw: packed(message),
  }))
  if (!rows.length) return
  await once(() => supabase.from('naive_messages').upsert(rows, { onConflict: 'id', ignoreDuplicates: true }))
  tell('stored', { ids: rows.map(({ id }) => id) })
}

connect({
  auth: { creds, keys: makeCacheableSignalKeyStore(/** @type {any} */ (store), /** @type {any} */ (pino({ level: 'silent' }))) },
  saveCreds: (update) => {
    Object.assign(creds, update)
    return once(() => supabase.from('naive_keys').upsert({ name: 'creds', value: packed(creds) }))
  },
  messages: ingest,
})
process.stdin.resume().on('end', () => setTimeout(() => process.exit(0), 500))
