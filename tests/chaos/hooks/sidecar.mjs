/**
 * Loaded into the sidecar from outside (`node --import`) by chaos runs and the benchmark; the product knows nothing of it.
 *
 * Code is appended to the sidecar's own modules while they load, so that it can reach what is in them. Three uses: crash
 * points (die by SIGKILL when the file `$CHAOS_FOLDER/crash/<point>` exists, which the one crash removes), a stanza that
 * ends the sidecar at each of its deliveries (`$CHAOS_FOLDER/killer.json`), and sabotage (`$CHAOS_SABOTAGE`, break
 * exactly one thing, to see that the check for it fails).
 */
import { accessSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs'
import { registerHooks } from 'node:module'

const { CHAOS_FOLDER = '', CHAOS_SABOTAGE = '' } = process.env

globalThis.chaos = {
  /** @param {string} point */
  die(point) {
    try {
      unlinkSync(`${CHAOS_FOLDER}/crash/${point}`)
    } catch {
      return // not armed
    }
    process.kill(process.pid, 'SIGKILL')
  },

  /** Ids of messages by the hash of their first ciphertext. @type {Map<string, string>} */
  ids: new Map(),

  /**
   * The stanza of the message `id` in killer.json ends the sidecar in each way of `ways` in turn, and then in the last
   * one for ever. Copies of the message are other stanzas, and do not. "never" and "lost" are promises that never
   * settle: in its decryption, for which all others wait, and before it, while others go on.
   * @param {string} hash
   * @param {boolean} before its decryption
   * @returns {boolean} nothing more may become of it
   */
  reached(hash, before) {
    const file = `${CHAOS_FOLDER}/killer.json`
    let killer
    try {
      killer = JSON.parse(readFileSync(file, 'utf8'))
    } catch {
      return false // there is none
    }
    if (chaos.ids.get(hash) !== killer.id || (killer.hash ?? hash) !== hash) return false
    const way = killer.ways[Math.min(killer.deaths ?? 0, killer.ways.length - 1)]
    if ((way === 'lost') !== before) return false
    writeFileSync(file, JSON.stringify({ ...killer, hash, deaths: (killer.deaths ?? 0) + 1 }))
    if (way === 'exit') process.exit(1)
    if (way === 'hang') for (;;);
    if (way !== 'lost' && way !== 'never') process.kill(process.pid, way)
    return true
  },
}

/** Module below `lib/log/` → what is appended to it. */
const KILLER = {
  'inbox.js': `
Inbox = class extends Inbox {
  constructor(hooks) {
    super({
      ...hooks,
      deliver: (stanza) => {
        chaos.ids.set(stanza.hash, stanza.node.attrs.id)
        if (stanza.treatment === 'unread' || !chaos.reached(stanza.hash, true)) hooks.deliver(stanza)
      },
    })
  }
}
`,
  'mark.js': `
const set = Mark.prototype.set
Mark.prototype.set = function (hash) { set.call(this, hash); chaos.silent = chaos.reached(hash, false) }
`,
  'keys.js': `
KeyStore = class extends KeyStore {
  constructor(hooks) {
    super(hooks)
    chaos.silent = false // another connection
  }
  get(...asked) { return chaos.silent ? new Promise(() => {}) : super.get(...asked) }
}
`,
}

const CRASH_POINTS = `
Gate = class extends Gate {
  constructor(hooks) {
    super({
      ...hooks,
      onDurable: (number) => {
        if (this.held > 0) chaos.die('answered') // the answer is here, the frames that waited for it are not out yet
        hooks.onDurable?.(number)
      },
      write: (frame) => {
        hooks.write(frame)
        chaos.die('released')
      },
    })
  }
  closeSection(section, item) {
    chaos.die('inside') // decrypted, keys spent in memory, nothing journaled
    super.closeSection(section, item)
  }
}
`

/** Name → module below `lib/log/` → what is appended to it. */
const SABOTAGE = {
  // Receipts leave at once.
  gate: { 'gate.js': `Gate = class extends Gate { send(frame) { this.hooks.write(frame) } }` },
  // As stock Baileys would be: nothing waits for the database. For the benchmark.
  ungated: { 'gate.js': `
Gate = class extends Gate {
  constructor(hooks) { super({ ...hooks, commit: async (batch) => { void hooks.commit(batch) } }) }
  send(frame) { this.hooks.write(frame) }
}` },
  // Keys are read from the database although newer ones wait in the log.
  keys: { 'keys.js': `
KeyStore.prototype.get = async function (type, ids) {
  const read = await this.hooks.read(type, ids)
  return Object.fromEntries(Object.entries(read).map(([id, text]) => [id, this.hooks.codec.revive(type, text)]))
}` },
  // Nothing tells which stanza a sidecar was decrypting.
  mark: { 'mark.js': `
Mark.prototype.set = (hash) => { chaos.silent = chaos.reached(hash, false) }` },
  // Nothing that a stanza brings is ever let go.
  memory: { 'inbox.js': `
const kept = []
const arrive = Inbox.prototype.arrive
Inbox.prototype.arrive = function (stanza) { kept.push(Buffer.alloc(4_000_000, 1)); return arrive.call(this, stanza) }` },
}

// A file that has moved would leave the product whole, and every check with nothing to find.
for (const file of ['gate.js', ...Object.keys(KILLER), ...Object.keys(SABOTAGE[CHAOS_SABOTAGE] ?? {})]) {
  accessSync(new URL(`../../../sidecar-baileys/lib/log/${file}`, import.meta.url))
}

registerHooks({
  load(url, context, next) {
    const loaded = next(url, context)
    const [, file] = /\/sidecar-baileys\/lib\/log\/(\w+\.js)$/.exec(url) ?? []
    if (!file) return loaded
    const points = CHAOS_FOLDER ? { 'gate.js': CRASH_POINTS, ...KILLER }[file] : undefined
    const more = (points ?? '') + (SABOTAGE[CHAOS_SABOTAGE]?.[file] ?? '')
    return more ? { ...loaded, source: `${loaded.source}\n${more}` } : loaded
  },
})
