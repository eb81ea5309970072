import assert from 'node:assert/strict'
import { test } from 'node:test'
import { GATHERED, Inbox } from '../lib/log/inbox.js'

/** A stanza as far as the inbox sees it. @param {string} id @param {{offline?: boolean, hashes?: string[], author?: string, stored?: boolean, alone?: boolean}} [options] */
const stanza = (id, { offline = false, hashes = [id], author = `author of ${id}`, stored = true, alone = false } = {}) => {
  const parts = hashes.map((hash) => ({ content: Buffer.from(hash), hash }))
  return /** @type {any} */ ({ id, offline, stored, alone, parts, author, expectedBytes: 100, forgotten: [], forget(/** @type {any[]} */ spent) { this.forgotten = spent.map((part) => part.hash) } })
}

/** @param {{known?: string[], lookups?: string[][], holdMs?: number, busy?: () => boolean, now?: () => number}} [options] */
function makeInbox({ known = [], lookups = [], holdMs = 60_000, busy = () => false, now } = {}) {
  /** @type {any[]} */
  const delivered = []
  /** @type {string[]} */
  const swallowed = []
  let asked = 0
  const inbox = new Inbox({
    askForMore: () => { asked += 1 },
    busy,
    known: async (hashes) => {
      lookups.push(hashes)
      return hashes.filter((hash) => known.includes(hash))
    },
    deliver: (s) => delivered.push(s),
    swallow: (s) => swallowed.push(/** @type {any} */ (s).id),
    holdMs,
    now,
  })
  return { inbox, delivered, swallowed, asked: () => asked, ids: () => delivered.map(({ id }) => id) }
}
const turn = () => new Promise(setImmediate)

test('a live stanza waits until the offline backlog has settled, and then goes in order', async () => {
  const { inbox, delivered, ids } = makeInbox()
  inbox.arrive(stanza('old1', { offline: true }))
  inbox.arrive(stanza('live1'))
  inbox.arrive(stanza('old2', { offline: true }))
  inbox.arrive(stanza('live2'))
  inbox.backlogComplete()
  await turn()
  assert.deepEqual(ids(), ['old1', 'old2'])
  inbox.settled(delivered[0], ['old1'])
  assert.deepEqual(ids(), ['old1', 'old2'])
  inbox.settled(delivered[1], ['old2'])
  assert.deepEqual(ids(), ['old1', 'old2', 'live1', 'live2'])
  inbox.close()
})

test('with no backlog a live stanza goes through in the same turn', () => {
  const { inbox, ids } = makeInbox()
  inbox.backlogComplete()
  inbox.arrive(stanza('live'))
  assert.deepEqual(ids(), ['live'])
  inbox.close()
})

test('a backlog that never ends holds live stanzas for a bounded time only', async () => {
  const { inbox, ids } = makeInbox({ holdMs: 1 })
  inbox.arrive(stanza('live'))
  while (ids().length === 0) await turn()
  assert.deepEqual(ids(), ['live'])
  inbox.close()
})

test('live stanzas that keep arriving do not prolong the wait for a backlog that never ends', async () => {
  const { inbox, ids } = makeInbox({ holdMs: 20 })
  let n = 0
  while (ids().length === 0 && n < 100_000) {
    inbox.arrive(stanza(`live${n++}`))
    await turn()
  }
  assert.equal(ids()[0], 'live0')
  inbox.close()
})

test('an offline stanza that never settles holds live stanzas for a bounded time only', async () => {
  const { inbox, ids } = makeInbox({ holdMs: 1 })
  inbox.arrive(stanza('old', { offline: true }))
  inbox.backlogComplete()
  inbox.arrive(stanza('live'))
  while (ids().length < 2) await turn()
  assert.deepEqual(ids(), ['old', 'live'])
  inbox.close()
})

test('what gathers for a lookup waits no longer than live stanzas do, if nothing of the backlog settles', async () => {
  const { inbox, ids } = makeInbox({ holdMs: 20 })
  for (let n = 0; n < GATHERED; n++) inbox.arrive(stanza(`stuck${n}`, { offline: true }))
  await turn()
  inbox.arrive(stanza('old', { offline: true }))
  inbox.backlogComplete()
  inbox.arrive(stanza('live'))
  await turn()
  assert.equal(ids().length, GATHERED)
  const deadline = performance.now() + 5_000
  while (ids().length < GATHERED + 2 && performance.now() < deadline) await turn()
  assert.deepEqual(ids().slice(GATHERED), ['old', 'live'])
  inbox.close()
})

test('while our own database or pause holds the socket, no patience runs out', async () => {
  let busy = true
  let looks = 0
  const { inbox, ids } = makeInbox({ holdMs: 1, busy: () => { looks += 1; return busy } })
  inbox.arrive(stanza('live'))
  while (looks < 5) await turn()
  assert.deepEqual(ids(), [])
  busy = false
  while (ids().length === 0) await turn()
  assert.deepEqual(ids(), ['live'])
  inbox.close()
})

test('the next window is asked for before the present one is over, and not after the end', async () => {
  const { inbox, asked } = makeInbox()
  for (let n = 0; n < 49; n++) inbox.arrive(stanza(`old${n}`, { offline: true }))
  assert.equal(asked(), 0)
  inbox.arrive(stanza('old49', { offline: true }))
  assert.equal(asked(), 1)
  for (let n = 50; n < 250; n++) inbox.arrive(stanza(`old${n}`, { offline: true }))
  assert.equal(asked(), 3)
  inbox.backlogComplete()
  for (let n = 250; n < 500; n++) inbox.arrive(stanza(`old${n}`, { offline: true }))
  assert.equal(asked(), 3)
  inbox.close()
})

test('a redelivery of what was committed is receipted and swallowed', async () => {
  const { inbox, swallowed, ids } = makeInbox({ known: ['known'] })
  inbox.arrive(stanza('known', { offline: true }))
  inbox.arrive(stanza('fresh', { offline: true }))
  await turn()
  assert.deepEqual(swallowed, ['known'])
  assert.deepEqual(ids(), ['fresh'])
  assert.equal(inbox.swallowed, 1)
  inbox.close()
})

test('a second copy within one connection is swallowed without asking', async () => {
  const { inbox, swallowed, delivered } = makeInbox()
  inbox.backlogComplete()
  inbox.arrive(stanza('a'))
  inbox.settled(delivered[0], ['a'])
  inbox.arrive(stanza('a'))
  await turn()
  assert.deepEqual(swallowed, ['a'])
  inbox.close()
})

test('of a part-decrypted stanza the spent part is taken out and the good rest goes in', async () => {
  const { inbox, delivered, ids } = makeInbox({ known: ['share'] })
  inbox.arrive(stanza('a', { offline: true, hashes: ['share', 'text'] }))
  await turn()
  assert.deepEqual(ids(), ['a'])
  assert.deepEqual(delivered[0].forgotten, ['share'])
  inbox.close()
})

test('while enough is in progress the backlog is looked up by the hundreds, and what is left at the end too', async () => {
  /** @type {number[]} */
  const lookups = []
  /** @type {any[]} */
  const delivered = []
  const inbox = new Inbox({ known: async (hashes) => { lookups.push(hashes.length); return [] }, deliver: (s) => delivered.push(s), swallow: () => {}, askForMore: () => {}, busy: () => false, holdMs: 60_000 })
  let number = 0
  const arrive = async (/** @type {number} */ count) => {
    for (let n = 0; n < count; n += 1) inbox.arrive(stanza(`s${number += 1}`, { offline: true }))
    await turn()
  }
  await arrive(GATHERED)
  assert.equal(delivered.length, GATHERED, 'nothing was in progress')
  lookups.length = 0
  await arrive(GATHERED - 1)
  assert.deepEqual(lookups, [])
  await arrive(1)
  assert.deepEqual(lookups, [GATHERED])
  await arrive(5)
  assert.deepEqual(lookups, [GATHERED])
  for (const done of delivered.slice(0, GATHERED + 1)) inbox.settled(done, [])
  await turn()
  assert.deepEqual(lookups, [GATHERED, 5], 'few are in progress now')
  for (const done of delivered) inbox.settled(done, [])
  inbox.backlogComplete()
  inbox.arrive(stanza('live'))
  assert.equal(delivered.at(-1).id, 'live')
  inbox.close()
})

test('when the worker cannot say what is known, nothing more is delivered', async () => {
  /** @type {any[]} */
  const delivered = []
  const inbox = new Inbox({ known: async () => { throw new Error('no answer') }, deliver: (s) => delivered.push(s), swallow: () => {}, askForMore: () => {}, busy: () => false, holdMs: 1_000 })
  inbox.arrive(stanza('a', { offline: true }))
  await turn()
  assert.equal(inbox.closed, true)
  assert.deepEqual(delivered, [])
})

test('a copy that comes while the first one is being decrypted waits for its outcome', async () => {
  const { inbox, delivered, swallowed, ids } = makeInbox()
  inbox.backlogComplete()
  inbox.arrive(stanza('good'))
  inbox.arrive(stanza('good'))
  inbox.arrive(stanza('bad'))
  inbox.arrive(stanza('bad'))
  await turn()
  assert.deepEqual(ids(), ['good', 'bad'])
  inbox.settled(delivered[0], ['good'])
  inbox.settled(delivered[1], [])
  await turn()
  assert.deepEqual(swallowed, ['good'])
  assert.deepEqual(ids(), ['good', 'bad', 'bad'], 'the first copy failed, so the second one gets its chance')
  inbox.close()
})

test('the stanzas of one author go one after another, those of others meanwhile', async () => {
  const { inbox, delivered, ids } = makeInbox()
  inbox.backlogComplete()
  inbox.arrive(stanza('ana1', { author: 'ana' }))
  inbox.arrive(stanza('ana2', { author: 'ana' }))
  inbox.arrive(stanza('ben1', { author: 'ben' }))
  await turn()
  assert.deepEqual(ids(), ['ana1', 'ben1'])
  inbox.settled(delivered[0], ['ana1'])
  await turn()
  assert.deepEqual(ids(), ['ana1', 'ben1', 'ana2'])
  inbox.close()
})

test('many swallowed copies of one author are no recursion, and the next good one gets in', async () => {
  const { inbox, swallowed, ids } = makeInbox({ known: ['copy'] })
  for (let n = 0; n < 20_000; n++) inbox.arrive(stanza('copy', { offline: true, author: 'ana' }))
  inbox.arrive(stanza('fresh', { offline: true, author: 'ana' }))
  while (ids().length === 0) await turn()
  assert.equal(swallowed.length, 20_000)
  assert.deepEqual(ids(), ['fresh'])
  inbox.close()
})

test('a flood of direct messages stands before no group message, and goes on behind it, few at a time', async () => {
  const { inbox, delivered, ids } = makeInbox()
  inbox.backlogComplete()
  for (let n = 0; n < 900; n++) inbox.arrive(stanza(`direct${n}`, { stored: false }))
  await turn()
  assert.deepEqual(ids(), ['direct0', 'direct1', 'direct2', 'direct3'])
  inbox.arrive(stanza('group'))
  await turn()
  assert.equal(ids()[4], 'group')
  for (let n = 0; n < delivered.length; n++) {
    inbox.settled(delivered[n], [])
    await turn()
  }
  assert.equal(delivered.length, 901)
  inbox.close()
})

test('a direct message goes first if its author has a group message behind it', async () => {
  const { inbox, delivered, ids } = makeInbox()
  inbox.backlogComplete()
  for (let n = 0; n < 10; n++) inbox.arrive(stanza(`direct${n}`, { stored: false }))
  inbox.arrive(stanza('keys', { stored: false, author: 'Ana' }))
  inbox.arrive(stanza('group', { author: 'Ana' }))
  await turn()
  assert.deepEqual([ids().includes('keys'), ids().includes('group')], [true, false])
  inbox.settled(delivered.find(({ id }) => id === 'keys'), [])
  await turn()
  assert.equal(ids().at(-1), 'group')
  inbox.close()
})

test('direct messages of the backlog are looked up together while they wait, though few are in progress', async () => {
  const lookups = /** @type {string[][]} */ ([])
  const { inbox, delivered, swallowed } = makeInbox({ known: ['direct30', 'direct40'], lookups })
  for (let n = 0; n < 50; n++) inbox.arrive(stanza(`direct${n}`, { offline: true, stored: false }))
  inbox.arrive(stanza('live direct', { stored: false }))
  inbox.backlogComplete()
  await turn()
  assert.deepEqual(lookups.map(({ length }) => length), [1, 49], 'the first at once, then all that wait')
  assert.equal(delivered.length, 4)
  inbox.arrive(stanza('group', { offline: true, author: 'author of direct40' }))
  await turn()
  assert.deepEqual(lookups.slice(2), [['group']], 'what was looked up is not looked up again')
  assert.deepEqual(swallowed, ['direct40'], 'its author has a group message: it goes first, with its answer')
  for (let n = 0; n < delivered.length; n++) {
    inbox.settled(delivered[n], [delivered[n].id])
    await turn()
  }
  assert.deepEqual([delivered.length, swallowed, lookups.length], [50, ['direct40', 'direct30'], 3])
  inbox.close()
})

test('a copy of a direct message that was decrypted after its lookup is swallowed', async () => {
  const { inbox, delivered, swallowed } = makeInbox()
  for (const id of ['first', 'a', 'b', 'c', 'first']) inbox.arrive(stanza(id, { offline: true, stored: false }))
  await turn()
  inbox.settled(delivered[0], ['first'])
  await turn()
  assert.deepEqual([delivered.length, swallowed], [4, ['first']])
  inbox.close()
})

test('no live stanza waits for direct messages of the backlog', async () => {
  const { inbox, ids } = makeInbox()
  for (let n = 0; n < 50; n++) inbox.arrive(stanza(`direct${n}`, { offline: true, stored: false }))
  inbox.backlogComplete()
  inbox.arrive(stanza('live'))
  await turn()
  assert.ok(ids().includes('live'))
  assert.ok(ids().length <= 5)
  inbox.close()
})

test('a suspect is delivered when nothing else is in work, and nothing else is while it is', async () => {
  const { inbox, delivered, ids } = makeInbox()
  for (const [id, alone] of /** @type {[string, boolean][]} */ ([['a', false], ['b', false], ['bad', true], ['c', false], ['worse', true]])) {
    inbox.arrive(stanza(id, { offline: true, alone }))
  }
  inbox.backlogComplete()
  inbox.arrive(stanza('live'))
  await turn()
  assert.deepEqual(ids(), ['a', 'b'])
  inbox.settled(delivered[0], ['a'])
  assert.deepEqual(ids(), ['a', 'b'], 'the other is still in work')
  inbox.settled(delivered[1], ['b'])
  assert.deepEqual(ids(), ['a', 'b', 'bad'])
  inbox.settled(delivered[2], ['bad'])
  assert.deepEqual(ids(), ['a', 'b', 'bad', 'c'])
  inbox.settled(delivered[3], ['c'])
  assert.deepEqual(ids(), ['a', 'b', 'bad', 'c', 'worse'])
  inbox.settled(delivered[4], ['worse'])
  await turn()
  assert.deepEqual(ids().at(-1), 'live')
  inbox.close()
})

test('the next stanza of a suspect\'s author still waits for it', async () => {
  const { inbox, delivered, ids } = makeInbox()
  inbox.backlogComplete()
  inbox.arrive(stanza('bad', { author: 'Ana', alone: true }))
  inbox.arrive(stanza('next', { author: 'Ana' }))
  inbox.arrive(stanza('other', { author: 'Ben' }))
  assert.deepEqual(ids(), ['bad'])
  inbox.settled(delivered[0], [])
  await turn()
  assert.deepEqual(ids().sort(), ['bad', 'next', 'other'])
  inbox.close()
})

test('receipts and notifications of the backlog fill its window too: the next one is asked for', () => {
  const { inbox, asked, ids } = makeInbox()
  for (let n = 0; n < 100; n++) inbox.otherArrived()
  assert.ok(asked() > 0, 'a window without a message is no end')
  inbox.arrive(stanza('live'))
  assert.deepEqual(ids(), [], 'the backlog goes on')
  inbox.backlogComplete()
  assert.deepEqual(ids(), ['live'])
  inbox.close()
})

test('the stanza that is stuck: in decryption, never decrypted at all, or overtaken by one that came long after it', async () => {
  let at = 0
  const { inbox, delivered } = makeInbox({ now: () => at })
  inbox.backlogComplete()
  assert.equal(inbox.stuck, null)
  const arrive = async (/** @type {string} */ id) => {
    inbox.arrive(stanza(id))
    await turn()
    return delivered.at(-1)
  }
  const stuck = () => [inbox.stuck?.stanza.id, inbox.stuck?.ms]
  const [lost, next] = [await arrive('lost'), await arrive('next')]
  at = 100
  assert.deepEqual(stuck(), ['lost', 100], 'nothing is in decryption: the oldest')
  next.section = { open: true }
  assert.deepEqual(stuck(), ['next', 100], 'the one in decryption, and the oldest may wait for it')
  inbox.settled(next, ['next'])
  assert.deepEqual(stuck(), ['lost', 0], 'it came with the other: it may be next')
  at = 300
  const later = await arrive('later')
  later.section = { open: true }
  at = 310
  inbox.settled(later, ['later'])
  assert.deepEqual(stuck(), ['lost', 300], 'one that came 300 ms later is through')
  inbox.settled(await arrive('without a ciphertext'), [])
  at = 320
  assert.deepEqual(stuck(), ['lost', 300], 'what needs no decryption tells nothing')
  inbox.settled(lost, [])
  assert.equal(inbox.stuck, null)
  inbox.close()
})
