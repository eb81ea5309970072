import assert from 'node:assert/strict'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, truncateSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { Mark, markDescriptor } from '../lib/log/mark.js'

const A = 'aa'.repeat(32)
const B = 'bb'.repeat(32)
const NOTHING = '00'.repeat(32)

let folder = ''
let path = ''
let fd = 0
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'wa-mark-'))
  path = join(folder, 'mark')
  fd = openSync(path, 'w+')
  truncateSync(path, 32)
})
after(() => {
  closeSync(fd)
  rmSync(folder, { recursive: true })
})
const read = () => readFileSync(path).toString('hex')

test('the stanza in work stands in the file, until another is in work or it is durable', () => {
  const mark = new Mark(fd)
  mark.set(A)
  assert.equal(read(), A)
  mark.set(B)
  assert.equal(read(), B)
  mark.journaled(A, 1)
  mark.durable(1)
  assert.equal(read(), B, 'what another stanza became says nothing of this one')
  mark.journaled(B, 3)
  mark.durable(2)
  assert.equal(read(), B, 'in the log, but not durable: it may still kill')
  mark.durable(3)
  assert.equal(read(), NOTHING)
})

test('a stanza that comes again is not durable because its first delivery was', () => {
  const mark = new Mark(fd)
  mark.set(A)
  mark.journaled(A, 1)
  mark.set(A)
  mark.durable(1)
  assert.equal(read(), A)
  mark.clear()
  assert.equal(read(), NOTHING)
})

test('without a file, or with one that cannot be written, nothing fails; the latter is told once', () => {
  /** @type {Error[]} */
  const told = []
  const mark = new Mark(1_000_000, (error) => told.push(error))
  mark.set(A)
  mark.set(B)
  assert.equal(told.length, 1)
  new Mark(markDescriptor({})).set(A)
  assert.equal(markDescriptor({ WA_MARK_FD: '7' }), 7)
})
