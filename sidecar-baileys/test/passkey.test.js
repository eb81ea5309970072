import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { after, before, beforeEach, afterEach, test } from 'node:test'
import { initAuthCreds } from 'baileys'
import { Pairing } from '../lib/baileys/pairing.js'
import { platformType } from '../lib/baileys/passkey.js'
import { comparisonCode, makePrologue, sealPairingRequest } from '../lib/baileys/passkey_crypto.js'
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


// ── the whole exchange ──────────────────────────────────────────────────────────────────────────────────────────────

/** What the owner's browser makes of the options. @param {object} [options] those of the attempt, if none are given */
const assertion = (options) => phone.post('/passkey/assert', { options })
const gate = () => phone.get('/passkey')

/** Up to the code on both screens. @param {object} [variant] */
async function compare(variant) {
  await scan(variant)
  await sidecar.notice('passkey_requested')
  await sidecar.call('passkey_assertion', { assertion: await assertion() })
  return (await sidecar.notice('passkey_code')).code
}

/** @param {Promise<any>} call @param {number} status */
const refused = (call, status) => assert.rejects(call, (/** @type {any} */ error) => error.data?.status === status)

test('the passkey links: both screens show one code, a person confirms, the account logs in', async () => {
  const code = await compare()
  const { stage, code: onPhone, proof } = await gate()
  assert.deepEqual([stage, onPhone, proof], ['compare', code, 'absent'])
  await phone.post('/passkey/confirm', {})
  await sidecar.call('passkey_confirm')
  assert.equal((await sidecar.connection('close')).close.code, 515)
  await sidecar.call('close', { logout: false, drain_ms: 5_000 })
  await sidecar.connect(phone)
  await sidecar.connection('open')
  assert.deepEqual((await gate()).problems, [])
  await acked(REQUEST, CONTINUATION)
})

test('of two answers at once one is taken, and the other is refused', async () => {
  await scan()
  await sidecar.notice('passkey_requested')
  const answer = await assertion()
  const calls = await Promise.allSettled([1, 2].map(() => sidecar.call('passkey_assertion', { assertion: answer })))
  assert.deepEqual(calls.map(({ status }) => status), ['fulfilled', 'rejected'])
  assert.equal(/** @type {any} */ (calls[1]).reason.data.status, 409)
  assert.equal((await sidecar.notice('passkey_code')).code, (await gate()).code, 'of what was committed to')
  await phone.post('/passkey/confirm', {})
  await sidecar.call('passkey_confirm')
  assert.equal((await sidecar.connection('close')).close.code, 515)
  assert.deepEqual((await gate()).problems, [])
})

test('by code it links as well', async () => {
  const { owner } = await phone.get('/state')
  await phone.post('/passkey', {})
  await sidecar.connect(phone)
  await sidecar.notice('qr')
  const { code } = await sidecar.call('pairing_code', { phone: owner.pn.split('@')[0] })
  await phone.post('/pair_code', { code })
  await sidecar.notice('passkey_requested')
  await sidecar.call('passkey_assertion', { assertion: await assertion() })
  assert.equal((await sidecar.notice('passkey_code')).code, (await gate()).code)
  await phone.post('/passkey/confirm', {})
  await sidecar.call('passkey_confirm')
  assert.equal((await sidecar.connection('close')).close.code, 515)
  const shown = (await phone.all('/log')).filter((/** @type {any} */ item) => item.kind === 'presence' && item.type !== 'unavailable')
  assert.deepEqual(shown, [])
  await acked(REQUEST, CONTINUATION)
})

test('the QR clock stands still while a person is at it, and the secret stays when WhatsApp retires the QR', async () => {
  await phone.post('/passkey', {})
  await sidecar.connect(phone, { qr_timeout_ms: 150 })
  const { qr } = await sidecar.notice('qr')
  await phone.post('/scan', { qr })
  await sidecar.notice('passkey_requested')
  const shown = sidecar.notices.filter(({ method }) => method === 'qr').length
  await phone.post('/faults', { kind: 'retire_qr', qr })
  await new Promise((resolve) => setTimeout(resolve, 1_500)) // six codes would have run out
  assert.equal(sidecar.notices.filter(({ method }) => method === 'qr').length, shown)
  await sidecar.call('passkey_assertion', { assertion: await assertion() })
  await sidecar.notice('passkey_code')
  await phone.post('/passkey/confirm', {})
  await sidecar.call('passkey_confirm')
  assert.equal((await sidecar.connection('close')).close.code, 515)
})

test('a pairing code that WhatsApp retires while a person is at it ends nothing', async () => {
  const { owner } = await phone.get('/state')
  await phone.post('/passkey', {})
  await sidecar.connect(phone)
  await sidecar.notice('qr')
  const { code } = await sidecar.call('pairing_code', { phone: owner.pn.split('@')[0] })
  await phone.post('/pair_code', { code })
  await sidecar.notice('passkey_requested')
  await phone.post('/pair_code/refresh', {})
  await sidecar.call('passkey_assertion', { assertion: await assertion() })
  await sidecar.notice('passkey_code')
  assert.deepEqual(sidecar.notices.filter(({ method }) => method === 'pairing_code_retired'), [])
  await phone.post('/passkey/confirm', {})
  await sidecar.call('passkey_confirm')
  assert.equal((await sidecar.connection('close')).close.code, 515)
})

test('the clock of a pairing code starts no more once it is stopped', async (t) => {
  t.mock.timers.enable({ apis: ['Date', 'setTimeout'] })
  const end = t.mock.fn()
  const creds = initAuthCreds()
  const link = new Pairing({ creds, browser: ['Ubuntu', 'Chrome', '1'], ttlMs: null, notify: () => {}, end })
  const node = (/** @type {string} */ tag, /** @type {any} */ content, attrs = {}) => ({ tag, attrs, content })
  const about = (/** @type {object} */ attrs) => node('notification', [
    node('link_code_companion_reg', [node('link_code_pairing_ref', Buffer.from('ref'))], attrs),
  ])
  link.offer(node('iq', [node('pair-device', [node('ref', Buffer.from('2@one'))])]))
  await link.requestCode({
    generateMessageTag: () => '1', ev: { emit: () => {} }, query: async () => about({}),
  }, '491511234567')
  link.stop()
  assert.equal(link.aboutCode(about({ stage: 'refresh_code' })), false)
  t.mock.timers.tick(600_000)
  assert.equal(end.mock.callCount(), 0)
  assert.equal(link.aboutCode(about({ stage: 'primary_hello' })), true, 'what the phone says of the code is still for Baileys')
})

for (const options of ['absent', 'broken']) {
  test(`${options} options are asked for, and the new challenge is the one that counts`, async () => {
    await scan({ options })
    await sidecar.notice('passkey_requested')
    const asked = await sidecar.call('passkey_options')
    assert.deepEqual(asked.options, (await gate()).options)
    await sidecar.call('passkey_assertion', { assertion: await assertion(asked.options) })
    await sidecar.notice('passkey_code')
  })
}

test('a request that comes twice changes nothing', async () => {
  await scan({ options: 'twice' })
  await acked(REQUEST, REQUEST)
  await sidecar.call('passkey_assertion', { assertion: await assertion() })
  assert.equal((await sidecar.notice('passkey_code')).code, (await gate()).code)
})

test('a refused step is an error with the code of WhatsApp', async () => {
  await scan({ refuse: 'passkey_prologue' })
  await sidecar.notice('passkey_requested')
  await refused(sidecar.call('passkey_assertion', { assertion: await assertion() }), 400)
})

test('a refused nonce ends the attempt and shows no code', async () => {
  await scan({ refuse: 'companion_nonce' })
  await sidecar.notice('passkey_requested')
  await sidecar.call('passkey_assertion', { assertion: await assertion() })
  assert.deepEqual(await sidecar.notice('passkey_failed'), { step: 'companion_nonce', status: 400 })
  await refused(sidecar.call('passkey_confirm'), 409)
})

test('after a refused last step the secret is the one of the QR again', async () => {
  await compare({ refuse: 'encrypted_pairing_request' })
  await phone.post('/passkey/confirm', {})
  await refused(sidecar.call('passkey_confirm'), 400)
  await phone.post('/realism', { passkey: false })
  const qr = sidecar.notices.find(({ method }) => method === 'qr').params.qr
  await phone.post('/scan', { qr })
  assert.equal((await sidecar.connection('close')).close.code, 515, 'linked with the old secret')
  await phone.post('/realism', { passkey: true })
})

for (const continuation of ['short_key', 'short_nonce']) {
  test(`a continuation with a ${continuation.replace('_', ' ')} is refused with 487 and ends the attempt`, async () => {
    await scan({ continuation })
    await sidecar.notice('passkey_requested')
    await sidecar.call('passkey_assertion', { assertion: await assertion() })
    assert.deepEqual(await sidecar.notice('passkey_failed'), { step: CONTINUATION, status: null })
    await acked(REQUEST, `${CONTINUATION} 487`)
  })
}

test('a continuation from before the commitment is not used: no code is shown', async () => {
  await scan({ continuation: 'early' })
  await sidecar.notice('passkey_requested')
  await sidecar.call('passkey_assertion', { assertion: await assertion() })
  await refused(sidecar.call('passkey_confirm'), 409)
  assert.deepEqual(sidecar.notices.filter(({ method }) => method.startsWith('passkey_') && method !== 'passkey_requested'), [])
  assert.equal((await gate()).stage, 'prologue')
})

test('a socket that is cut ends the attempt; the next one registers anew and can be linked', async () => {
  await scan({ cut: 'companion_nonce' })
  const before = (await phone.all('/log')).filter((/** @type {any} */ item) => item.kind === 'login_refused').length
  await sidecar.notice('passkey_requested')
  await sidecar.call('passkey_assertion', { assertion: await assertion() })
  await sidecar.connection('close')
  await sidecar.call('close', { logout: false, drain_ms: 5_000 })
  await phone.post('/passkey', {})
  await sidecar.connect(phone)
  const { qr } = await sidecar.notice('qr')
  await phone.post('/scan', { qr })
  await sidecar.notice('passkey_requested')
  assert.equal((await phone.all('/log')).filter((/** @type {any} */ item) => item.kind === 'login_refused').length, before)
})

test('without a request there is nothing to answer', async () => {
  await sidecar.connect(phone)
  await sidecar.notice('qr')
  await refused(sidecar.call('passkey_confirm'), 409)
})

// ── the cryptography ────────────────────────────────────────────────────────────────────────────────────────────────

test('prologue, code and sealed request are those of the fixed vector', () => {
  const { companion, phone: primary, iv, ...expected } = JSON.parse(readFileSync(new URL('./support/passkey-vector.json', import.meta.url), 'utf8'))
  const bytes = (/** @type {string} */ hex) => Buffer.from(hex, 'hex')
  const hex = (/** @type {Uint8Array} */ value) => Buffer.from(value).toString('hex')
  const { deviceType, ref } = companion
  const half = { ephemeral: { public: bytes(companion.public), private: bytes(companion.private) }, nonce: bytes(companion.nonce), deviceType, ref }
  const other = { publicKey: bytes(primary.publicKey), nonce: bytes(primary.nonce) }
  assert.equal(hex(makePrologue(half)), expected.prologue)
  assert.equal(comparisonCode(half.nonce, other), expected.code)
  const keys = { noise: bytes(companion.noise), identity: bytes(companion.identity), advSecret: bytes(companion.advSecret) }
  assert.equal(hex(sealPairingRequest(half, other.publicKey, keys, bytes(iv))), expected.request)
})

test('the device type is the one that Baileys registers', () => {
  for (const [browser, type] of /** @type {const} */ ([['Chrome', 1], ['Firefox', 2], ['Safari', 5], ['Edge', 6], ['Desktop', 7], ['Android', 16], ['Netscape', 1]])) {
    assert.equal(platformType(['wa-worker', browser, '1.0']), type, browser)
  }
})
