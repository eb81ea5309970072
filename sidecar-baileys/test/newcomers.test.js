/** First messages of many newcomers with a database that is far away: real sidecar, real Baileys, the virtual phone. */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Database, pair, Sidecar, startPhone } from './support/worker.js'

const NEWCOMERS = 60
/** Baileys reads so many keys for each, one after the other. */
const READS_EACH = 5
const AWAY_MS = 250

/** @type {any} */
let phone
/** @type {Sidecar} */
let sidecar
const database = new Database()

before(async () => {
  phone = await startPhone()
  sidecar = new Sidecar(database, { LOG_LEVEL: 'info' })
  await pair(sidecar, phone)
})
after(async () => {
  sidecar.child.kill('SIGKILL')
  phone.stop()
})

for (const addressing of ['lid', 'pn']) {
  test(`the keys of newcomers in a group by ${addressing} are read ahead, many in one call`, async () => {
    const names = Array.from({ length: NEWCOMERS }, (_, n) => `${addressing} ${n}`)
    const { id: group } = await phone.post('/groups', { subject: 'Fair', participants: names, addressing_mode: addressing })
    let calls = 0
    sidecar.beforeGet = async () => {
      calls += 1
      await sleep(AWAY_MS)
    }
    await phone.post('/send_many', { items: names.map((from) => ({ from, to: group, text: `hello from ${from}` })) })
    const stored = () => database.stanzas.filter((/** @type {any} */ s) => s.attrs.from === group && s.content)
    await sidecar.until(() => stored().length === NEWCOMERS, 'the messages of all')
    assert.ok(calls < (NEWCOMERS * READS_EACH) / 5, `${calls} calls`)
  })
}
