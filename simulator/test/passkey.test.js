import assert from 'node:assert/strict'
import { after, before, beforeEach, afterEach, test } from 'node:test'
import { Curve, proto } from 'baileys'
import { Client, makeAuth } from './client.js'
import { Ceremony } from './passkey-client.js'
import { startProgram } from './program.js'
import { commitmentOf, comparisonCode, handoffProof, openPairingRequest, pairingKey } from '../lib/passkey-crypto.js'

/** @type {import('./program.js').Program} */
let phone
/** @type {Client} */
let client
/** @type {Ceremony} */
let ceremony

before(async () => { phone = await startProgram('--realism', 'passkey=true') })
after(() => phone.stop())
beforeEach(async () => {
  await phone.post('/passkey', {})
  await phone.post('/realism', { time_scale: 1 })
  client = new Client(phone.endpoints, makeAuth(), { browser: ['Linux', 'Chrome', '1.0'] })
  await client.until(() => client.qr, 'QR')
  ceremony = new Ceremony(client)
})
afterEach(() => client.end())

const scan = () => phone.post('/scan', { qr: client.qr })
const gate = () => phone.get('/passkey')
/** @param {any} [lies] @param {any} [options] */
const assertion = async (lies, options) => phone.post('/passkey/assert', { options: options ?? await ceremony.options(), lies })
/** @param {Promise<unknown>} asked @param {RegExp} why */
async function refused(asked, why) {
  await assert.rejects(asked, /bad-request/)
  assert.match((await gate()).problems.at(-1), why)
}

test('the whole way: both screens show one code, a person confirms, the rotated secret links', async () => {
  const { passkey } = await scan()
  assert.equal(passkey.stage, 'requested')
  await ceremony.prologue(await assertion())
  await ceremony.reveal()
  const { code, stage, proof } = await gate()
  assert.deepEqual([code, stage, proof], [ceremony.code, 'compare', 'absent'])
  assert.match(code, /^[1-9A-HJ-NP-TV-Z]{4}-[1-9A-HJ-NP-TV-Z]{4}$/)
  await refused(ceremony.finish(), /not confirmed/)
  await phone.post('/passkey/confirm')
  await ceremony.finish()
  assert.equal((await client.closed()).code, 515)
  await phone.post('/wait', { for: 'passkey', stage: 'linked' })
  assert.deepEqual((await gate()).acks, ['passkey_prologue_request'])
  client.reconnect()
  await client.until(() => client.open, 'open')
  await phone.post('/unpair')
})

test('by code, with a proof: nobody need confirm', async () => {
  const { owner } = await phone.get('/state')
  const code = await client.sock?.requestPairingCode(owner.pn.split('@')[0])
  await phone.post('/pair_code', { code })
  await ceremony.prologue(await assertion(), { proof: true })
  await ceremony.reveal()
  await ceremony.finish()
  assert.equal((await gate()).proof, 'good')
  assert.equal((await client.closed()).code, 515)
  await phone.post('/unpair')
})

for (const [why, lies] of /** @type {const} */ ([['origin', { origin: 'https://example.com' }], ['flags', { flags: 1 }], ['type', { type: 'webauthn.create' }]])) {
  test(`an assertion with a false ${why} is refused`, async () => {
    await scan()
    await refused(ceremony.prologue(await assertion(lies)), new RegExp(why))
  })
}

test('refused: another challenge, one used twice, one expired, a foreign relying party, extras, another credential, a false signature', async () => {
  await scan()
  const options = await ceremony.options()
  const good = await assertion({}, options)
  await refused(ceremony.prologue(await assertion({}, { ...options, challenge: 'AAAA' })), /challenge/)
  await refused(ceremony.prologue(await assertion({}, { ...options, rpId: 'example.com' })), /relying party/)
  await refused(ceremony.prologue({ ...good, authenticatorAttachment: 'platform' }), /shape/)
  await refused(ceremony.prologue({ ...good, rawId: 'AAAA', id: 'AAAA' }), /credential/)
  await refused(ceremony.prologue({ ...good, response: { ...good.response, signature: (await assertion({}, { ...options, challenge: 'AAAA' })).response.signature } }), /signature/)
  await ceremony.prologue(good)
  await refused(ceremony.prologue(good), /challenge/)
})

test('refused: an expired challenge; a new one is there for the asking', async () => {
  await scan()
  const late = await assertion()
  await phone.post('/realism', { time_scale: 1e9 })
  await refused(ceremony.prologue(late), /expired/)
  await phone.post('/realism', { time_scale: 1 })
  await ceremony.query('passkey_request_options')
  await refused(ceremony.prologue(late), /challenge/)
  await ceremony.prologue(await assertion({}, (await gate()).options))
})

test('refused: a stale reference, another device type, a false proof, another nonce, another identity, steps out of order', async () => {
  await scan()
  await refused(ceremony.prologue(await assertion(), { ref: 'old' }), /ref/)
  const fresh = async () => (await ceremony.query('passkey_request_options'), assertion({}, (await gate()).options))
  await refused(ceremony.prologue(await fresh(), { deviceType: 2 }), /device type/)
  await refused(ceremony.prologue(await fresh(), { proof: Buffer.alloc(32) }), /proof/)
  await refused(ceremony.query('companion_nonce', ceremony.nonce), /before the prologue/)
  await ceremony.prologue(await fresh(), { proof: true })
  await refused(ceremony.query('encrypted_pairing_request', Buffer.from([1])), /before the nonce/)
  await refused(ceremony.reveal(Buffer.alloc(32)), /commitment/)
  await ceremony.reveal()
  await refused(ceremony.finish(Buffer.alloc(32)), /identity key/)
})

test('the request may come without options, broken, twice, or from somebody else first', async () => {
  for (const [options, count] of /** @type {const} */ ([['absent', 1], ['broken', 1], ['twice', 2], ['wrong_from', 2]])) {
    await phone.post('/passkey', { options })
    ceremony.requests = []
    await scan()
    await client.until(() => ceremony.requests.length === count, options)
    if (options === 'absent') assert.equal(ceremony.requests[0].content?.length ?? 0, 0)
    if (options === 'broken') assert.throws(() => JSON.parse(ceremony.requests[0].content[0].content.toString()))
    if (options === 'wrong_from') assert.match(ceremony.requests[0].attrs.from, /^49/)
  }
})

test('the continuation may come early, or too short; a step may be refused; the socket may end', async () => {
  await phone.post('/passkey', { continuation: 'early' })
  await scan()
  await client.until(() => ceremony.primary, 'an early continuation')
  for (const [continuation, key, nonce] of /** @type {const} */ ([['short_key', 31, 32], ['short_nonce', 32, 31]])) {
    await phone.post('/passkey', { continuation })
    ceremony.primary = null
    await scan()
    await ceremony.prologue(await assertion({}, (await gate()).options))
    const got = await client.until(() => ceremony.primary, continuation)
    assert.deepEqual([got.publicKey.length, got.nonce.length], [key, nonce])
  }
  await phone.post('/passkey', { refuse: 'passkey_prologue' })
  await scan()
  await refused(ceremony.prologue(await assertion({}, (await gate()).options)), /as asked/)
  await phone.post('/passkey', { cut: 'passkey_prologue_request' })
  await scan()
  assert.equal((await client.closed()).code, 428)
  await assert.rejects(phone.post('/passkey', { options: 'nice' }), { status: 400 })
})

const hex = (/** @type {string} */ text) => Buffer.from(text, 'hex')

test('the cryptography gives what a fixed vector says, computed elsewhere', () => {
  const ref = '2@ref,test'
  const [identity, nonce, primary] = [hex('0a207b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f1310011a0a32407265662c74657374'), Buffer.alloc(32, 0x55), hex('0faa684ed28867b97f4a6a2dee5df8ce974e76b7018e3f22a1c4cf2678570f20')]
  const prologue = hex('0a300a207b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f1310011a0a32407265662c7465737412220a20b34924860d68a2bd8322b4214ad3e148759e1d96dc343f85682b92249c682ce4')
  assert.equal(commitmentOf(identity, nonce).toString('hex'), 'b34924860d68a2bd8322b4214ad3e148759e1d96dc343f85682b92249c682ce4')
  assert.equal(handoffProof(Buffer.alloc(32, 0x33), prologue).toString('hex'), 'c82f6e922102ceabda635131294b55647f4fa93badb7c6b84a3bbfb1e1f0f96a')
  assert.equal(comparisonCode(nonce, primary, Buffer.alloc(32, 0x66)), '8J9X-F3Q3')
  const shared = Curve.sharedKey(hex('2022222222222222222222222222222222222222222222222222222222222262'), hex('7b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13'))
  const key = pairingKey(shared, 1, ref)
  assert.equal(key.toString('hex'), 'a89df824905d3a23b0e7c4cc7d246c4e28884b99e8fc50f8dd1dc431b9207ee7')
  const { encryptedPayload, iv } = proto.EncryptedPairingRequest.decode(hex('0a76b95b42a0245306667969358127bd05b2ecd1fbdc934f5959a37f0e935b28505c3b6ad755ac059f4ef386e017a7f4ac7a459a1aa651c7379e5f8a6a297f0683d8addcd81ef9200180febae13c4c3748693954d9eb2a30decb4da0cf40ce5a639e43b73775010b3e9d07d4ea005de7ed9cd7045bc0570d120c777777777777777777777777'))
  const { advSecret } = proto.PairingRequest.decode(openPairingRequest(encryptedPayload ?? Buffer.alloc(0), iv ?? Buffer.alloc(0), key))
  assert.deepEqual(Buffer.from(advSecret ?? []), Buffer.alloc(32, 0x44))
})
