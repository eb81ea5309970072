/** Any number of accounts on one server, each with its own linked devices; against the stock Baileys. */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Client, makeAuth, pairedClient } from './client.js'
import { startProgram } from './program.js'

/** @type {import('./program.js').Program} */
let phone
/** @type {Client} the account's first device */
let desk
/** @type {Client} its second */
let tablet
/** @type {Client} a device of another account */
let other
/** @type {any[]} */
let devices = []
let group = ''
const PIA = '/phones/2'

before(async () => {
  phone = await startProgram()
  await phone.post('/phones', { name: 'Pia', phone: '491700000002' })
  desk = await pairedClient(phone)
  tablet = await pairedClient(phone)
  other = await pairedClient({ ...phone, post: (path, body) => phone.post(PIA + path, body) })
  devices = (await phone.get('/state')).devices
  group = (await phone.post('/groups', { subject: 'Both', participants: ['Ana', 'Pia'] })).id
})
after(async () => {
  for (const client of [desk, tablet, other]) await client?.end()
  await phone.stop()
})

/** @param {any} client @param {string} id */
const textOf = async (client, id) => (await client.message(id)).message.conversation

test('a second device unlinks nobody, and another account has devices of its own', async () => {
  assert.deepEqual(devices.map(({ connected }) => connected), [true, true])
  const { phones } = await phone.get('/phones')
  assert.deepEqual(phones.map((/** @type {any} */ one) => [one.path, one.owner.name, one.devices.length]), [['/phones/1', 'Olivia Owner', 2], ['/phones/2', 'Pia', 1]])
  assert.equal(new Set([desk, tablet, other].map(({ auth }) => auth.creds.me?.id)).size, 3)
  await assert.rejects(phone.get('/phones/3/state'), { status: 404 })
  await assert.rejects(phone.get('/state?device=99'), { status: 404 })
})

test('a message of a group reaches every device of both accounts, one of another group those of its account', async () => {
  for (let i = 0; i < 5; i++) {
    const { id } = await phone.post('/send', { from: 'Ana', to: group, text: `to all ${i}` })
    for (const client of [desk, tablet, other]) assert.equal(await textOf(client, id), `to all ${i}`)
  }
  const { id: only } = await phone.post('/groups', { subject: 'Olivia alone', participants: ['Ana'] })
  const mine = await phone.post('/send', { from: 'Ana', to: only, text: 'to one account' })
  for (const client of [desk, tablet]) assert.equal(await textOf(client, mine.id), 'to one account')
  const theirs = await phone.post(`${PIA}/send`, { from: 'Ana', to: 'direct', text: 'to Pia' })
  assert.equal(await textOf(other, theirs.id), 'to Pia')
  assert.ok(!other.upserts.some(({ key }) => key.id === mine.id))
  assert.ok(!desk.upserts.some(({ key }) => key.id === theirs.id))
  assert.deepEqual((await phone.get(`${PIA}/groups`)).groups.map((/** @type {any} */ one) => one.subject), ['Both'])
})

test('what the owner writes comes to the own devices as theirs, and to the other account as a member\'s', async () => {
  const { id } = await phone.post('/send', { from: 'me', to: group, text: 'from my phone' })
  assert.equal((await desk.message(id)).key.fromMe, true)
  assert.equal((await other.message(id)).key.fromMe, false)
})

test('a copy is asked for, and given, for the device that lacks it alone', async () => {
  const { id } = await phone.post('/send', { from: 'Ana', to: group, text: 'bad at first', fault: { corrupt: true } })
  for (const client of [desk, tablet, other]) assert.equal(await textOf(client, id), 'bad at first')
  const { id: next } = await phone.post('/send', { from: 'Ana', to: group, text: 'good again' })
  for (const client of [desk, tablet, other]) assert.equal(await textOf(client, next), 'good again')
})

test('each device has its own backlog', async () => {
  await tablet.end()
  await phone.post('/wait', { for: 'disconnected', device: devices[1].device })
  const { id } = await phone.post('/send', { from: 'Ana', to: group, text: 'while the tablet was away' })
  assert.equal(await textOf(desk, id), 'while the tablet was away')
  await phone.post('/wait', { for: 'queue_empty', device: devices[0].device })
  assert.deepEqual((await phone.get(`/offline?device=${devices[1].device}`)).items.map((/** @type {any} */ item) => item.id), [id])
  tablet.reconnect()
  assert.equal(await textOf(tablet, id), 'while the tablet was away')
  await phone.post('/wait', { for: 'queue_empty', device: devices[1].device })
})

test('the phone has as many linked devices as it may; one that it removes is gone alone', async () => {
  await phone.post('/realism', { max_devices: 2 })
  const third = new Client(phone.endpoints, makeAuth())
  const qr = await third.until(() => third.qr, 'QR')
  await assert.rejects(phone.post('/scan', { qr }), /as many linked devices/)
  await phone.post('/unpair', { device: devices[0].device })
  assert.equal((await desk.closed()).code, 401)
  await phone.post('/scan', { qr })
  assert.equal((await third.closed()).code, 515)
  const { id } = await phone.post('/send', { from: 'Ana', to: group, text: 'after it' })
  for (const client of [tablet, other]) assert.equal(await textOf(client, id), 'after it')
  await third.end()
})
