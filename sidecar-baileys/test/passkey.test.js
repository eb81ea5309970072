import assert from 'node:assert/strict'
import { after, before, beforeEach, afterEach, test } from 'node:test'
import { Database, Sidecar, startPhone } from './support/worker.js'

const REQUEST = 'passkey_prologue_request'
const CONTINUATION = 'crsc_continuation'
/** @type {any} */
let phone
/** @type {Sidecar} */
let sidecar

before(async () => {
  phone = await startPhone()
  await phone.post('/realism', { passkey: true })
})
after(() => phone.stop())
beforeEach(() => { sidecar = new Sidecar(new Database()) })
afterEach(() => sidecar.stop())

/** How the gate behaves, and a scan that leads to it. @param {object} [variant] */
async function scan(variant = {}) {
  await phone.post('/passkey', variant)
  await sidecar.connect(phone)
  const { qr } = await sidecar.notice('qr')
  await phone.post('/scan', { qr })
}

/** @param {string[]} expected types that were acked, each with the error that the ack named */
async function acked(...expected) {
  for (const deadline = Date.now() + 20_000; ;) {
    const { acks } = await phone.get('/passkey')
    if (acks.length >= expected.length || Date.now() > deadline) return assert.deepEqual(acks, expected)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

test('the request for a passkey is told with its options, and acked, which Baileys cannot', async () => {
  await scan()
  const { options } = await sidecar.notice('passkey_requested')
  assert.deepEqual(options, (await phone.get('/passkey')).options)
  await acked(REQUEST)
})

test('by code it is acked once as well, although Baileys could', async () => {
  const { owner } = await phone.get('/state')
  await phone.post('/passkey', {})
  await sidecar.connect(phone)
  await sidecar.notice('qr')
  const { code } = await sidecar.call('pairing_code', { phone: owner.pn.split('@')[0] })
  await phone.post('/pair_code', { code })
  await sidecar.notice('passkey_requested')
  await acked(REQUEST)
})

test('without options it is told all the same', async () => {
  await scan({ options: 'absent' })
  assert.equal((await sidecar.notice('passkey_requested')).options, null)
  await acked(REQUEST)
})

test('options that cannot be read are refused with 487', async () => {
  await scan({ options: 'broken' })
  assert.equal((await sidecar.notice('passkey_requested')).options, null)
  await acked(`${REQUEST} 487`)
})

test('what is not from the server is acked and not believed', async () => {
  await scan({ options: 'wrong_from' })
  await sidecar.notice('passkey_requested')
  await acked(REQUEST, REQUEST)
  assert.equal(sidecar.notices.filter(({ method }) => method === 'passkey_requested').length, 1)
})

test('a continuation that nobody asked for is acked, and so is the request after it', async () => {
  await scan({ continuation: 'early' })
  await sidecar.notice('passkey_requested')
  await acked(CONTINUATION, REQUEST)
})

