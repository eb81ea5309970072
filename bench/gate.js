/**
 * What the frame gate costs: `make benchgate`, or `node bench/gate.js [--rounds 5] [--messages 2000] [--commit-ms 20]`.
 *
 * The same sidecar, the same virtual phone, one run, three ways in turn: with the gate; without it (every frame is written at
 * once, commits go on beside); without it and with commits that nobody awaits, as stock Baileys would. A commit takes
 * 20 ms. The rate is what WhatsApp sees: messages until the server has read the last receipt, from the moment the first one
 * was written. The processor time of the sidecar is printed beside it: other programs on the machine do not change that one.
 * Prints figures; judges nothing.
 */
import { readFileSync } from 'node:fs'
import { availableParallelism, loadavg } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Database, pair, Sidecar, startPhone } from '../sidecar-baileys/test/support/worker.js'

const HOOK = new URL('../tests/chaos/hooks/sidecar.mjs', import.meta.url)
const WAYS = /** @type {const} */ (['gate', 'no gate', 'no gate, commits not awaited'])
/** How each way is made from outside (tests/chaos/hooks/sidecar.mjs). */
const SABOTAGE = { 'gate': '', 'no gate': 'gate', 'no gate, commits not awaited': 'ungated' }
const SENDERS = ['Ana', 'Ben', 'Chika', 'Dana', 'Emeka', 'Farid']
const GROUPS = 3
const WARM_UP = 300 // messages: keys read once, code compiled
const TEXT = 'The road is dry, we open at eight. '.repeat(3)
const WAIT_MS = 80_000

const { values } = parseArgs({
  options: { 'rounds': { type: 'string', default: '5' }, 'messages': { type: 'string', default: '2000' }, 'commit-ms': { type: 'string', default: '20' }, 'help': { type: 'boolean' } },
})
if (values.help) {
  process.stdout.write('node bench/gate.js [--rounds 5] [--messages 2000] [--commit-ms 20]\n')
  process.exit(0)
}
const [rounds, messages, commitMs] = [values.rounds, values.messages, values['commit-ms']].map(Number)

/** @typedef {{rate: number, cpuMs: number, longestHoldMs: number, logBytesMax: number, rssBytes: number, batches: number}} Figures */

/** @param {any} phone */
async function makeGroups(phone) {
  const groups = []
  for (let n = 0; n < GROUPS; n++) {
    const body = { subject: `Group ${n}`, participants: SENDERS, addressing_mode: n % 2 ? 'pn' : 'lid', notify: false }
    groups.push((await phone.post('/groups', body)).id)
  }
  return groups
}

/**
 * Encrypted first, written afterwards: the phone's own work is not measured.
 * @param {any} phone @param {string[]} groups @param {number} count
 * @returns {Promise<number>} messages per second
 */
async function receive(phone, groups, count) {
  const items = Array.from({ length: count }, (_, n) => ({
    from: SENDERS[n % SENDERS.length], to: groups[Math.floor(n / SENDERS.length) % groups.length], text: `${n} ${TEXT}`, fault: { hold: true },
  }))
  const sent = (await phone.post('/send_many', { items })).items
  const ids = sent.map((/** @type {any} */ { id }) => id)
  const begin = performance.timeOrigin + performance.now()
  await phone.post('/release', { ids })
  const { done, items: receipts } = await phone.post('/receipts/wait', { ids, timeout_ms: WAIT_MS })
  if (!done) throw new Error('not every message was receipted')
  const end = Math.max(...receipts.map((/** @type {any} */ { at_ms }) => at_ms))
  return (count * 1000) / (end - begin)
}

/** @param {any} phone @param {Database} database @param {string[]} groups @param {typeof WAYS[number]} way @returns {Promise<Figures>} */
async function measure(phone, database, groups, way) {
  const sidecar = new Sidecar(database, { LOG_LEVEL: 'error', NODE_OPTIONS: `--import ${HOOK}`, CHAOS_SABOTAGE: SABOTAGE[way] })
  let batches = 0
  sidecar.beforeCommit = () => (batches++, sleep(commitMs))
  await sidecar.connect(phone)
  await sidecar.connection('open')
  await receive(phone, groups, WARM_UP)
  const before = cpuMs(sidecar.child.pid)
  const rate = await receive(phone, groups, messages)
  const spent = (cpuMs(sidecar.child.pid) - before) / messages
  const figures = await sidecar.call('ping')
  await sidecar.call('close', { logout: false, drain_ms: 10_000 })
  await sidecar.stop()
  return { rate, cpuMs: spent, longestHoldMs: figures.longest_hold_ms, logBytesMax: figures.log_bytes_max, rssBytes: figures.rss_bytes, batches }
}

/** @param {number | undefined} pid @returns {number} processor time so far, milliseconds; NaN where there is no /proc */
function cpuMs(pid) {
  try {
    const [, user, system] = /\) (?:\S+ ){11}(\d+) (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? []
    return (Number(user) + Number(system)) * 10 // a hundred ticks a second, on every Linux
  } catch {
    return NaN
  }
}

/** @param {number[]} numbers */
function median(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

const whole = (/** @type {number} */ n) => Math.round(n).toLocaleString('en')
const mb = (/** @type {number} */ bytes) => `${(bytes / 1e6).toFixed(2)} MB`
const say = (/** @type {string} */ line) => process.stdout.write(`${line}\n`)

async function main() {
  const phone = await startPhone()
  try {
    const database = new Database()
    const first = new Sidecar(database, { LOG_LEVEL: 'error' })
    await pair(first, phone)
    await first.call('close', { logout: false, drain_ms: 10_000 })
    await first.stop()
    const groups = await makeGroups(phone)
    say(`${rounds} rounds of ${whole(messages)} messages, ${SENDERS.length} senders in ${GROUPS} groups; a commit takes ${commitMs} ms`)
    /** @type {Record<string, Figures[]>} */
    const found = Object.fromEntries(WAYS.map((way) => [way, []]))
    for (let round = 1; round <= rounds; round++) {
      // Each in another place each time: what else runs on the machine comes and goes.
      for (const way of [...WAYS.slice(round % WAYS.length), ...WAYS.slice(0, round % WAYS.length)]) {
        const figures = await measure(phone, database, groups, way)
        found[way].push(figures)
        say(`round ${round}: ${way.padEnd(29)} ${whole(figures.rate).padStart(6)} messages/s, ${figures.cpuMs.toFixed(2)} ms of processor each, longest hold ${whole(figures.longestHoldMs)} ms, log at most ${mb(figures.logBytesMax)}, ${figures.batches} commits`)
      }
    }
    const rate = Object.fromEntries(WAYS.map((way) => [way, median(found[way].map((one) => one.rate))]))
    const best = Math.max(rate['no gate'], rate['no gate, commits not awaited'])
    say('')
    const load = loadavg()[0]
    if (load > 2 * availableParallelism()) say(`the machine is busy (load ${load.toFixed(1)} on ${availableParallelism()} processors): the times say little`)
    for (const way of WAYS) say(`median, ${way.padEnd(29)} ${whole(rate[way]).padStart(6)} messages/s, ${median(found[way].map((one) => one.cpuMs)).toFixed(2)} ms of the sidecar's processor time each`)
    say(`ratio, gate to the better of the others: ${(rate.gate / best).toFixed(2)} (asked for: at least 0.80)`)
    say(`longest hold of a frame: ${whole(Math.max(...found.gate.map((one) => one.longestHoldMs)))} ms (asked for: under 1,000)`)
    say(`log of the gate, at most: ${mb(Math.max(...found.gate.map((one) => one.logBytesMax)))} (bound: 64 MB, worker/session/connection.py)`)
  } finally {
    phone.stop()
  }
}

await main()
process.exit(0)
