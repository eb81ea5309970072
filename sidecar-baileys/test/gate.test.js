import assert from 'node:assert/strict'
import { mock, test } from 'node:test'
import fc from 'fast-check'
import { BATCH_BYTES, BATCH_STANZAS, GATHER_MS, GATHER_STEP_MS, Gate } from '../lib/log/gate.js'

/** A gate whose commits are answered by hand. @param {() => number} [inWork] */
function makeGate(inWork) {
  /** @type {{batch: import('../lib/log/gate.js').Batch, resolve: () => void, reject: (e: Error) => void}[]} */
  const commits = []
  /** @type {string[]} */
  const written = []
  /** @type {Error[]} */
  const failures = []
  let announce = () => {}
  const gate = new Gate({
    commit: (batch) => new Promise((resolve, reject) => {
      commits.push({ batch, resolve: () => resolve(undefined), reject })
      announce()
    }),
    write: (frame) => written.push(Buffer.from(frame).toString()),
    onFailure: (error) => failures.push(error),
    inWork,
    now: () => Date.now(),
  })
  const nextCommit = async () => {
    while (commits.length === 0) await new Promise((resolve) => { announce = () => resolve(undefined) })
    return /** @type {typeof commits[0]} */ (commits.shift())
  }
  return { gate, commits, written, failures, nextCommit }
}

const frame = (/** @type {string} */ text) => Buffer.from(text)
const stanza = (/** @type {string} */ id, bytes = 10) => ({ stanza: { id }, bytes })

test('a frame leaves at once when nothing is waiting to become durable', () => {
  const { gate, written } = makeGate()
  gate.send(frame('ping'))
  assert.deepEqual(written, ['ping'])
})

test('a receipt waits for the commit of what stands before it in the log', async () => {
  const { gate, written, nextCommit } = makeGate()
  gate.append(stanza('a'))
  gate.send(frame('receipt a'))
  const { batch, resolve } = await nextCommit()
  assert.deepEqual(batch.stanzas, [{ id: 'a' }])
  assert.deepEqual(written, [])
  resolve()
  await gate.settled()
  assert.deepEqual(written, ['receipt a'])
})

test('a frame never overtakes an earlier one, even if its own cause is durable', async () => {
  const { gate, written, nextCommit } = makeGate()
  const section = gate.openSection()
  gate.append(stanza('a'))
  gate.send(frame('first'))
  gate.send(frame('from inside'), section)
  assert.deepEqual(written, [])
  ;(await nextCommit()).resolve()
  await new Promise(setImmediate)
  assert.deepEqual(written, ['first', 'from inside'])
  gate.closeSection(section, stanza('b'))
  ;(await nextCommit()).resolve()
})

test('a frame from inside an open section does not wait for that section: the decryption may await its answer', () => {
  const { gate, written } = makeGate()
  const section = gate.openSection()
  gate.send(frame('lookup'), section)
  assert.deepEqual(written, ['lookup'])
})

test('while one commit runs, everything else gathers into the next one', async () => {
  const { gate, nextCommit } = makeGate()
  gate.append(stanza('a'))
  const first = await nextCommit()
  for (const id of ['b', 'c', 'd']) gate.append(stanza(id))
  first.resolve()
  const second = await nextCommit()
  assert.deepEqual(second.batch.stanzas.map((/** @type {any} */ s) => s.id), ['b', 'c', 'd'])
  assert.equal(second.batch.seq, 2)
  second.resolve()
})

/** @param {(clock: (ms: number) => Promise<void>) => Promise<void>} body its clock goes on only when told */
async function withClock(body) {
  mock.timers.enable({ apis: ['setTimeout', 'Date'] })
  const turn = () => new Promise(setImmediate)
  try {
    await body(async (ms) => {
      await turn()
      mock.timers.tick(ms)
      await turn()
    })
  } finally {
    mock.timers.reset()
  }
}

test('while stanzas are being decrypted a commit waits for the next one, and not when nothing more comes', () =>
  withClock(async (pass) => {
    let inWork = 2
    const { gate, commits } = makeGate(() => inWork)
    gate.append(stanza('a'))
    await pass(GATHER_STEP_MS - 1)
    inWork = 1
    gate.append(stanza('b'))
    await pass(GATHER_STEP_MS - 1)
    assert.equal(commits.length, 0)
    inWork = 0
    gate.append(stanza('c'))
    await pass(0)
    assert.deepEqual(commits.map(({ batch }) => batch.stanzas.length), [3])
  }))

test('a stanza that takes long keeps no other from its commit', () =>
  withClock(async (pass) => {
    const { gate, commits } = makeGate(() => 1)
    gate.append(stanza('a'))
    await pass(GATHER_STEP_MS)
    assert.equal(commits.length, 1)
  }))

test('a stream without an end is committed in parts', () =>
  withClock(async (pass) => {
    const { gate, commits } = makeGate(() => 1)
    for (let ms = 0; ms <= 2 * GATHER_MS; ms += GATHER_STEP_MS - 1) {
      gate.append(stanza(String(ms)))
      await pass(GATHER_STEP_MS - 1)
    }
    assert.equal(commits.length, 1)
  }))

test('a gate that has failed commits nothing that it was gathering', () =>
  withClock(async (pass) => {
    const { gate, commits } = makeGate(() => 1)
    gate.append(stanza('a'))
    await pass(1)
    gate.fail(new Error('another holder'))
    await pass(GATHER_MS)
    assert.equal(commits.length, 0)
  }))

test('a batch ends at its bounds, and one item over the bound travels alone', async () => {
  const { gate, nextCommit } = makeGate()
  for (let i = 0; i <= BATCH_STANZAS; i += 1) gate.append(stanza(String(i)))
  gate.append(stanza('huge', 5 * BATCH_BYTES))
  gate.append(stanza('last'))
  const sizes = []
  for (let i = 0; i < 4; i += 1) {
    const { batch, resolve } = await nextCommit()
    sizes.push(batch.stanzas.length)
    resolve()
    if (i === 3) break
  }
  assert.deepEqual(sizes, [BATCH_STANZAS, 1, 1, 1])
})

test('within a batch the last value of a key and the last credentials stand', async () => {
  const { gate, nextCommit } = makeGate()
  gate.append({ keys: { session: { x: 'old', y: 'kept' } }, creds: 'c1', bytes: 1 })
  gate.append({ keys: { session: { x: null } }, creds: 'c2', bytes: 1 })
  const { batch, resolve } = await nextCommit()
  assert.deepEqual(batch.keys, { session: { x: null, y: 'kept' } })
  assert.equal(batch.creds, 'c2')
  resolve()
})

test('a refused commit shuts the gate: no frame leaves any more, and the log is forgotten', async () => {
  const { gate, written, failures, nextCommit } = makeGate()
  gate.append(stanza('a'))
  gate.send(frame('receipt a'))
  ;(await nextCommit()).reject(new Error('stale'))
  await gate.settled()
  gate.append(stanza('b'))
  gate.send(frame('receipt b'))
  assert.deepEqual(written, [])
  assert.equal(gate.items, 0)
  assert.equal(failures.length, 1)
})

test('a section enters the log as one item, with the latest value of each key that it touched', () => {
  const { gate } = makeGate()
  const section = gate.openSection()
  section.touch({ session: { x: 'then' } })
  assert.equal(gate.items, 0)
  assert.deepEqual(section.changes((type, id) => (type === 'session' && id === 'x' ? 'now' : undefined)), { session: { x: 'now' } })
  gate.closeSection(section, stanza('a'))
  gate.closeSection(section, stanza('a'))
  assert.equal(gate.items, 1)
})

/**
 * Over generated interleavings. A model remembers, for each frame, which items had entered the log when it was queued.
 */
test('property: no frame leaves before everything that entered the log ahead of it is durable, and frames keep their order', async () => {
  const action = fc.oneof(
    fc.constant('append'), fc.constant('send'), fc.constant('open'), fc.constant('close'), fc.constant('sendInside'),
    fc.constant('answer'), fc.constant('turn'),
  )
  await fc.assert(fc.asyncProperty(fc.array(action, { maxLength: 60 }), fc.boolean(), async (actions, refuse) => {
    /** @type {Set<string>} */
    const durable = new Set()
    /** @type {Map<string, string[]>} */
    const causes = new Map()
    /** @type {string[]} */
    const order = []
    /** @type {string[]} */
    const written = []
    /** @type {string[]} */
    const log = []
    /** @type {{batch: any, resolve: () => void, reject: (e: Error) => void}[]} */
    const commits = []
    let refused = false
    const gate = new Gate({
      commit: (batch) => new Promise((resolve, reject) => commits.push({ batch, resolve: () => resolve(undefined), reject })),
      write: (bytes) => {
        const id = Buffer.from(bytes).toString()
        for (const cause of causes.get(id) ?? []) assert.ok(durable.has(cause), `${id} left before ${cause}`)
        assert.equal(refused, false, 'a frame left after the gate had shut')
        written.push(id)
      },
    })
    /** @type {{section: import('../lib/log/gate.js').Section, before: string[]}[]} */
    const open = []
    let counter = 0
    let expectedSeq = 0
    const answer = () => {
      const commit = commits.shift()
      if (!commit) return
      assert.equal(commit.batch.seq, (expectedSeq += 1))
      if (refuse && expectedSeq === 3) {
        refused = true
        commit.reject(new Error('refused'))
      } else {
        for (const { id } of commit.batch.stanzas) durable.add(id)
        commit.resolve()
      }
    }
    for (const step of actions) {
      const id = `${step}${(counter += 1)}`
      if (step === 'append') { log.push(id); gate.append(stanza(id)) }
      if (step === 'open') open.push({ section: gate.openSection(), before: [...log] })
      if (step === 'close' && open.length > 0) { log.push(id); gate.closeSection(/** @type {any} */ (open.shift()).section, stanza(id)) }
      if (step === 'send') { causes.set(id, [...log]); order.push(id); gate.send(frame(id)) }
      if (step === 'sendInside' && open.length > 0) { causes.set(id, open[0].before); order.push(id); gate.send(frame(id), open[0].section) }
      if (step === 'answer') answer()
      if (step === 'turn') await new Promise(setImmediate)
      assert.ok(commits.length <= 1, 'one batch in flight at a time')
    }
    for (const { section } of open) { const id = `late${(counter += 1)}`; log.push(id); gate.closeSection(section, stanza(id)) }
    for (let turns = 0; turns < 200 && !refused && (gate.items > 0 || gate.held > 0); turns += 1) {
      await new Promise(setImmediate)
      answer()
    }
    assert.deepEqual(written, order.slice(0, written.length))
    if (!refused) {
      assert.deepEqual(written, order, 'every frame left in the end')
      assert.deepEqual([...durable].sort(), [...log].sort(), 'every item was committed once')
      assert.equal(gate.bytes, 0)
    }
  }), { numRuns: 300 })
})
