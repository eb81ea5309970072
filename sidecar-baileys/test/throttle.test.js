import assert from 'node:assert/strict'
import { mock, test } from 'node:test'
import { STANZAS_IN_FLIGHT, Throttle } from '../lib/log/throttle.js'

const MAX = 1_000

/** @param {Partial<import('../lib/log/throttle.js').Load>} initial */
function makeThrottle(initial = {}) {
  const load = { bytes: 0, waiting: 0, waitingBytes: 0, openSections: 0, settled: 0, ...initial }
  /** @type {string[]} */
  const done = []
  const throttle = new Throttle({ load: () => ({ ...load }), pause: () => done.push('pause'), resume: () => done.push('resume'), maxBytes: MAX })
  return { throttle, load, done }
}

test('a full log pauses the socket, and half a log resumes it', () => {
  const { throttle, load, done } = makeThrottle({ bytes: MAX + 1 })
  throttle.regulate()
  load.bytes = MAX * 0.6
  throttle.regulate()
  assert.deepEqual(done, ['pause'])
  load.bytes = MAX * 0.4
  throttle.regulate()
  assert.deepEqual(done, ['pause', 'resume'])
  throttle.stop()
})

test('too many stanzas in Baileys\' own queue pause it as well', () => {
  const { throttle, done } = makeThrottle({ waiting: STANZAS_IN_FLIGHT + 1 })
  throttle.regulate()
  assert.deepEqual(done, ['pause'])
  throttle.stop()
})

test('what waits for decryption counts like what is in the log', () => {
  const { throttle, load, done } = makeThrottle({ bytes: MAX * 0.6, waiting: 9, waitingBytes: MAX * 0.6 })
  throttle.regulate()
  load.waitingBytes = 0
  throttle.regulate()
  assert.deepEqual(done, ['pause'])
  load.bytes = MAX * 0.4
  throttle.regulate()
  assert.deepEqual(done, ['pause', 'resume'])
  throttle.stop()
})

for (const [why, load, settles, expected] of /** @type {[string, Partial<import('../lib/log/throttle.js').Load>, boolean, string[]][]} */ ([
  ['a section that awaits an answer', { bytes: MAX + 1, openSections: 1, waiting: 1 }, false, ['pause', 'resume']],
  ['a look-up before any section, with room in the log', { waiting: STANZAS_IN_FLIGHT + 1 }, false, ['pause', 'resume']],
  ['a backlog that moves on, though some section is always open', { bytes: MAX + 1, openSections: 1, waiting: 9 }, true, ['pause']],
  ['a log that waits for the database alone', { bytes: MAX + 1, waiting: 5 }, false, ['pause']],
])) {
  test(`${expected.length > 1 ? 'lets a breath through for' : 'stays paused for'} ${why}`, () => {
    mock.timers.enable({ apis: ['setTimeout'] })
    try {
      const { throttle, load: present, done } = makeThrottle(load)
      throttle.regulate()
      if (settles) present.settled += 1
      mock.timers.tick(150)
      throttle.stop()
      assert.deepEqual(done, expected)
    } finally {
      mock.timers.reset()
    }
  })
}
