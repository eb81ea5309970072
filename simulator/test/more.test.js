import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import https from 'node:https'
import { after, afterEach, before, test } from 'node:test'
import { Client, makeAuth, pairedClient } from './client.js'
import { PROGRAM, startProgram } from './program.js'

/** @type {import('./program.js').Program} */
let phone
/** @type {import('./client.js').Client} */
let client
let group = ''

before(async () => {
  phone = await startProgram()
  group = (await phone.post('/groups', { subject: 'More', participants: ['Ana', 'Ben'] })).id
  client = await pairedClient(phone)
})
afterEach(() => phone.post('/faults', { kind: 'clear' }))
after(async () => {
  await client.end()
  await phone.stop()
})

test('groups that appear, change and end are told to a connected client', async () => {
  /** @type {any[]} */
  const made = []
  client.sock?.ev.on('groups.upsert', (groups) => { made.push(...groups); client.events.emit('change') })
  const { id } = await phone.post('/groups', { subject: 'Fresh', participants: ['Ana', 'Dora'] })
  const fresh = await client.until(() => made.find((one) => one.id === id), 'the new group')
  assert.equal(fresh.subject, 'Fresh')
  await phone.post('/groups/rename', { id, subject: 'Fresher' })
  await client.until(() => client.groupUpdates.find(({ subject }) => subject === 'Fresher'), 'the new name')
  const first = await phone.post('/send', { from: 'Dora', to: id, text: 'before' })
  await client.message(first.id)
  await phone.post('/groups/remove', { id, participants: ['Ana'] })
  const second = await phone.post('/send', { from: 'Dora', to: id, text: 'with a new key' })
  assert.equal((await client.message(second.id)).message.conversation, 'with a new key')
  await phone.post('/groups/leave', { id })
  const groups = await client.sock?.groupFetchAllParticipating()
  assert.equal(groups?.[id], undefined)
  await phone.post('/wait', { for: 'queue_empty' })
  assert.deepEqual(client.unexpected, [])
})

test('a sender may write from another of his devices', async () => {
  const { id, participant } = await phone.post('/send', { from: 'Ana', to: group, text: 'from my laptop', device: 7 })
  assert.match(participant, /:7@lid$/)
  assert.equal((await client.message(id)).message.conversation, 'from my laptop')
  await phone.post('/wait', { for: 'queue_empty' })
  assert.deepEqual(client.unexpected, [])
})

test('a person with a new phone has a new identity; the messages go on', async () => {
  await phone.post('/send', { from: 'Ben', to: group, text: 'old phone' })
  await phone.post('/people/reinstall', { name: 'Ben' })
  const { id } = await phone.post('/send', { from: 'Ben', to: group, text: 'new phone' })
  assert.equal((await client.message(id)).message.conversation, 'new phone')
  await phone.post('/wait', { for: 'queue_empty' })
  assert.deepEqual(client.unexpected, [])
})

test('a message without content is filled in by the phone', async () => {
  const { id } = await phone.post('/send', { from: 'Ana', to: group, text: 'resent by the phone', fault: { unavailable: true } })
  const message = await client.message(id)
  assert.equal(message.message.conversation, 'resent by the phone')
  const { items } = await phone.get('/log')
  assert.ok(items.some((/** @type {any} */ { kind, type }) => kind === 'peer_request' && type === 4))
  await phone.post('/wait', { for: 'queue_empty' })
})

test('pre-keys are handed out once each; when few are left the client is told and sends more', async () => {
  const { prekeys } = await phone.get('/state')
  await phone.post('/prekeys', { keep: 5 })
  const sent = await phone.post('/send', { from: 'Newcomer', to: 'direct', text: 'I take one' })
  await client.message(sent.id)
  const { items } = await phone.get('/log')
  assert.ok(items.some((/** @type {any} */ { kind }) => kind === 'prekeys_low'))
  const bob = await phone.post('/send', { from: 'Bob', to: 'direct', text: 'me too' })
  await client.message(bob.id)
  await phone.post('/wait', { for: 'prekeys', count: 6 })
  assert.ok(prekeys > 5)
  assert.deepEqual(client.unexpected, [])
})

test('the backlog can be kept back after the login', async () => {
  await client.end()
  await phone.post('/wait', { for: 'disconnected' })
  const { id } = await phone.post('/send', { from: 'Ana', to: group, text: 'kept back' })
  await phone.post('/offline/hold', { hold: true })
  client.reconnect()
  await client.until(() => client.open, 'open')
  assert.equal((await phone.get('/state')).connected, false)
  assert.ok(!client.upserts.some(({ key }) => key.id === id))
  await phone.post('/offline/hold', { hold: false })
  await client.message(id)
})

test('queries fail as asked; a slow server is only slow', async () => {
  await phone.post('/faults', { kind: 'iq_error', xmlns: 'blocklist', code: 503 })
  await assert.rejects(async () => client.sock?.fetchBlocklist(), /internal-server-error/)
  await client.sock?.fetchBlocklist()
  await phone.post('/faults', { kind: 'slow', ms: 20 })
  const { ids } = await phone.post('/burst', { from: ['Ana'], to: [group], count: 5, text_prefix: 'slow' })
  await phone.post('/faults', { kind: 'clear' })
  for (const id of ids) await client.message(id)
})

test('no QR comes when none is to come; the next client gets one', async () => {
  const other = await startProgram()
  await other.post('/faults', { kind: 'no_qr' })
  const silent = new Client(other.endpoints, makeAuth())
  await other.post('/wait', { for: 'qr_waiting' })
  assert.equal(silent.qr, '')
  const next = new Client(other.endpoints, makeAuth())
  await next.until(() => next.qr, 'QR')
  await Promise.all([silent.end(), next.end()])
  await other.stop()
})

/** @param {string} path @returns {Promise<{status?: number, body: Buffer, error?: string, location?: string}>} */
function fetchBlob(path, timeoutMs = 5000) {
  return new Promise((resolve) => {
    /** @type {Buffer[]} */
    const chunks = []
    const done = (/** @type {any} */ more) => resolve({ body: Buffer.concat(chunks), ...more })
    const request = https.get(phone.endpoints.media_origin + path, { ca: phone.endpoints.media_ca, signal: AbortSignal.timeout(timeoutMs), agent: false }, (response) => {
      const { statusCode: status, headers: { location } } = response
      response.on('data', (chunk) => chunks.push(chunk)).on('end', () => done({ status, location })).on('error', (error) => done({ status, error: error.message }))
    })
    request.on('error', (error) => done({ error: error.message }))
  })
}

test('media faults do what they say, once, then the file is there', async () => {
  const { id, media } = await phone.post('/send', { from: 'Ana', to: group, media: { kind: 'image', data: Buffer.alloc(100_000, 'p').toString('base64') } })
  const good = (await fetchBlob(media.direct_path)).body
  const half = good.length >> 1
  /** @type {[string, (answer: Awaited<ReturnType<typeof fetchBlob>>) => boolean][]} */
  const faults = [
    ['404', ({ status }) => status === 404], ['410', ({ status }) => status === 410], ['403', ({ status }) => status === 403], ['503', ({ status }) => status === 503],
    ['stall', ({ error, body }) => Boolean(error) && body.length === half], ['drop', ({ error, body }) => Boolean(error) && body.length <= half],
    ['truncate', ({ error, body }) => !error && body.length === half], ['flip', ({ body }) => body.length === good.length && !body.equals(good)],
    ['wrong_hash', ({ body }) => body.length === good.length && !body.equals(good)], ['redirect', ({ status, location }) => status === 302 && Boolean(location)],
    ['slow', ({ body, error }) => body.equals(good) && !error], ['endless', ({ error, body }) => Boolean(error) && body.length > good.length]
  ]
  for (const [mode, check] of faults) {
    await phone.post('/media/faults', { id, mode, ms: mode === 'slow' ? 10 : 0 })
    const answer = await fetchBlob(media.direct_path, ['stall', 'endless'].includes(mode) ? 500 : 5000)
    assert.ok(check(answer), `${mode}: ${answer.status} ${answer.error} ${answer.body.length}`)
    assert.deepEqual((await fetchBlob(media.direct_path)).body, good)
  }
  const { count, items } = await phone.get('/media/requests')
  assert.equal(count[media.path], 1 + 2 * faults.length)
  assert.deepEqual(items.slice(-2).map((/** @type {any} */ { fault }) => fault), ['endless', null])
})

test('a wrong request gets a clear error and changes nothing', async () => {
  await assert.rejects(phone.post('/send', { from: 'Ana', to: 'nowhere@g.us', text: 'x' }), { status: 404 })
  await assert.rejects(phone.post('/send', { from: 'Ana', to: group }), { status: 400 })
  await assert.rejects(phone.post('/faults', { kind: 'weather' }), { status: 400 })
  await assert.rejects(phone.post('/nothing'), { status: 404 })
  await assert.rejects(phone.post('/scan', { qr: 'x' }), { status: 404 })
})

test('the program: help, one line on stdout, SIGTERM and the end of stdin end it with 0, a taken port with 2', async () => {
  const run = async (/** @type {string[]} */ ...args) => {
    const child = spawn(process.execPath, [PROGRAM, ...args], { stdio: ['pipe', 'pipe', 'pipe'] })
    let stdout = ''
    child.stdout.on('data', (data) => { stdout += data; child.emit('text') })
    return { child, exit: once(child, 'exit'), text: () => stdout }
  }
  const help = await run('--help')
  assert.deepEqual(await help.exit, [0, null])
  assert.match(help.text(), /usage:/)
  const { port } = new URL(phone.endpoints.control_url)
  assert.deepEqual(await (await run('--port', port)).exit, [2, null])
  const term = await run()
  await once(term.child, 'text')
  term.child.kill('SIGTERM')
  assert.deepEqual(await term.exit, [0, null])
  assert.equal(term.text().trim().split('\n').length, 1)
})

test('pages in a browser are refused, and nobody guesses the way to a private control API', async () => {
  const page = await fetch(`${phone.endpoints.control_url}/send`, { method: 'POST', headers: { origin: 'http://evil.example' }, body: '{}' })
  assert.equal(page.status, 403)
  const hidden = await startProgram('--private')
  try {
    const { origin, pathname } = new URL(hidden.endpoints.control_url)
    assert.match(pathname, /^\/[0-9a-f-]{36}$/)
    assert.equal((await hidden.get('/people')).people.length, 0)
    for (const path of ['/people', `/${'0'.repeat(36)}/people`, `${pathname}0/people`]) assert.equal((await fetch(origin + path)).status, 404, path)
  } finally {
    await hidden.stop()
  }
})
