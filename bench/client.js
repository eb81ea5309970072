/**
 * Baileys alone, its keys and credentials in memory: what the benchmark compares with. `node bench/client.js STATE
 * [--native]`; `--native` with the sidecar's signatures and key objects. Reads the server from the environment, prints
 * one JSON line an event, keeps its state in the file STATE when stdin ends.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'

const [file, ...flags] = process.argv.slice(2)
for (const level of /** @type {const} */ (['info', 'warn', 'error'])) console[level] = () => {} // libsignal prints keys
if (flags.includes('--native')) {
  const { installStrictSignatures } = await import('../sidecar-baileys/lib/baileys/curve.js')
  const { installKeyObjects } = await import('../sidecar-baileys/lib/baileys/key_objects.js')
  installKeyObjects()
  installStrictSignatures()
}
const { BufferJSON, initAuthCreds } = await import('baileys')
const { connect, tell } = await import('./naive/baileys.js')

const kept = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8'), BufferJSON.reviver) : null
/** @type {Map<string, any>} */
const keys = new Map(kept?.keys ?? [])
const creds = kept?.creds ?? initAuthCreds()

connect({
  auth: {
    creds,
    keys: {
      /** @param {string} type @param {string[]} ids @returns {Promise<any>} */
      get: async (type, ids) => Object.fromEntries(ids.flatMap((id) => (keys.has(`${type}-${id}`) ? [[id, keys.get(`${type}-${id}`)]] : []))),
      /** @param {any} data */
      set: async (data) => {
        for (const [type, entries] of Object.entries(data)) {
          for (const [id, value] of Object.entries(entries)) value ? keys.set(`${type}-${id}`, value) : keys.delete(`${type}-${id}`)
        }
      },
    },
  },
  saveCreds: (update) => void Object.assign(creds, update),
  messages: () => {},
})

process.stdin.resume().on('end', () => {
  writeFileSync(file, JSON.stringify({ creds, keys: [...keys] }, BufferJSON.replacer))
  tell('saved')
  process.exit(0)
})
