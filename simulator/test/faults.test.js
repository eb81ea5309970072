import assert from 'node:assert/strict'
import { after, afterEach, before, test } from 'node:test'
import { Client, makeAuth, pairedClient } from './client.js'
import { startProgram } from './program.js'

/** @type {import('./program.js').Program} */
let phone
/** @type {import('./client.js').Client} */
let client

before(async () => {
  phone = await startProgram()
  await phone.post('/groups', { subject: 'Faults', participants: ['Ana'] })
  client = await pairedClient(phone)
})
afterEach(() => phone.post('/faults', { kind: 'clear' }))
after(async () => {
  await client.end()
  await phone.stop()
})

async function back() {
  client.reconnect()
  await client.until(() => client.open, 'open')
  await phone.post('/wait', { for: 'connected' })
}

const CLOSES = [
  { why: 'a stream error keeps its code', fault: { kind: 'stream_error', code: 503 }, code: 503 },
  { why: '515 asks for a restart', fault: { kind: 'stream_error', code: 515 }, code: 515 },
  { why: 'replaced by another client', fault: { kind: 'conflict', type: 'replaced' }, code: 440 },
  { why: 'removed from the phone', fault: { kind: 'conflict', type: 'device_removed' }, code: 401 },
  { why: 'a reset', fault: { kind: 'drop' }, code: 428 },
  { why: 'a plain close', fault: { kind: 'close', code: 1011 }, code: 428 },
  { why: 'the end of the stream', fault: { kind: 'xmlstreamend' }, code: 428 }
]

for (const { why, fault, code } of CLOSES) {
  test(`${why}: ${JSON.stringify(fault)} → ${code}`, async () => {
    await phone.post('/faults', fault)
    assert.equal((await client.closed()).code, code)
    await phone.post('/wait', { for: 'disconnected' })
    await back()
  })
}

for (const [reason, request] of /** @type {const} */ ([[403, { kind: 'failure', reason: 403 }], [405, { kind: 'version_outdated' }]])) {
  test(`a login refused with ${reason}, once`, async () => {
    await client.end()
    await phone.post('/faults', request)
    client.reconnect()
    assert.equal((await client.closed()).code, reason)
    await back()
  })
}

test('HTTP 503 at the upgrade, once', async () => {
  await client.end()
  await phone.post('/faults', { kind: 'http_503' })
  client.reconnect()
  const status = await new Promise((resolve) => client.sock?.ws.on('unexpected-response', (_request, response) => resolve(response.statusCode)))
  assert.equal(status, 503)
  await client.end()
  await back()
})

test('a closed port refuses connections until it is opened', async () => {
  await client.end()
  await phone.post('/faults', { kind: 'refuse', on: true })
  client.reconnect()
  assert.equal((await client.closed()).code, 408)
  await phone.post('/faults', { kind: 'clear' })
  await back()
})

test('a handshake of nonsense ends the attempt', async () => {
  await client.end()
  await phone.post('/faults', { kind: 'garbage_handshake' })
  client.reconnect()
  await client.closed()
  await back()
})

test('the chain of a foreign root is really another one: the stock client does not check, so it logs in', async () => {
  await client.end()
  await phone.post('/faults', { kind: 'foreign_root' })
  await back()
})

test('a mute server holds its frames; cleared, they all come', async () => {
  await phone.post('/faults', { kind: 'mute' })
  const { groups } = await phone.get('/groups')
  const { id } = await phone.post('/send', { from: 'Ana', to: groups[0].id, text: 'held by a mute server' })
  const { done } = await phone.post('/receipts/wait', { ids: [id], timeout_ms: 150 })
  assert.equal(done, false)
  await phone.post('/faults', { kind: 'clear' })
  await client.message(id)
})

test('a deaf server reads no receipt until it is cleared', async () => {
  const { groups } = await phone.get('/groups')
  await phone.post('/faults', { kind: 'deaf' })
  const { id } = await phone.post('/send', { from: 'Ana', to: groups[0].id, text: 'said to a deaf server' })
  await client.message(id)
  assert.equal((await phone.post('/receipts/wait', { ids: [id], timeout_ms: 150 })).done, false)
  await phone.post('/faults', { kind: 'clear' })
  assert.ok((await phone.post('/receipts/wait', { ids: [id] })).done)
})

test('group queries are rate-limited as often as asked', async () => {
  await phone.post('/faults', { kind: 'rate_limit_groups' })
  await assert.rejects(async () => client.sock?.groupFetchAllParticipating(), /rate-overlimit/)
  assert.ok(await client.sock?.groupFetchAllParticipating())
})

test('a second client with the same credentials replaces the first', async () => {
  const second = new Client(phone.endpoints, client.auth)
  assert.equal((await client.closed()).code, 440)
  await second.until(() => second.open, 'open')
  await second.end()
  await phone.post('/wait', { for: 'disconnected' })
  await back()
})

test('a scan that was tampered with: no linked device, and a client without credentials', async () => {
  const other = await startProgram()
  for (const tamper of ['hmac', 'account_signature']) {
    const fresh = new Client(other.endpoints, makeAuth())
    const qr = await fresh.until(() => fresh.qr, 'QR')
    const scanned = other.post('/scan', { qr, tamper, timeout_ms: 500 })
    if (tamper === 'hmac') {
      await assert.rejects(scanned, { status: 504 })
      await fresh.closed()
      assert.equal(fresh.auth.creds.me, undefined)
      assert.equal((await other.get('/state')).paired, false)
    } else {
      // Stock Baileys ignores the false signature (docs/whatsapp.md, "Signatures"); a strict client must not get here.
      await scanned
    }
    await fresh.end()
  }
  assert.equal(await other.stop(), 0)
})

test('pairing by code', async () => {
  const other = await startProgram()
  const fresh = new Client(other.endpoints, makeAuth())
  await fresh.until(() => fresh.qr, 'QR')
  const { owner } = await other.get('/state')
  const code = await fresh.sock?.requestPairingCode(owner.pn.split('@')[0])
  await other.post('/wait', { for: 'qr_waiting' })
  const { jid } = await other.post('/pair_code', { code })
  assert.equal((await fresh.closed()).code, 515)
  assert.equal(fresh.auth.creds.me?.id, jid)
  fresh.reconnect()
  await fresh.until(() => fresh.open, 'open')
  await fresh.end()
  await other.stop()
})

test('a device that the phone removed cannot log in again; it can be paired anew', async () => {
  await phone.post('/unpair')
  assert.equal((await client.closed()).code, 401)
  client.reconnect()
  assert.equal((await client.closed()).code, 401)
  client = await pairedClient(phone)
  const { groups } = await phone.get('/groups')
  const { id } = await phone.post('/send', { from: 'Ana', to: groups[0].id, text: 'new device' })
  assert.equal((await client.message(id)).message.conversation, 'new device')
  await client.sock?.logout()
  const { items } = await phone.get('/log')
  await phone.post('/wait', { for: 'disconnected' })
  assert.equal((await phone.get('/state')).paired, false)
  assert.ok(items.length)
})
