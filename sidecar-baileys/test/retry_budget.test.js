import assert from 'node:assert/strict'
import { test } from 'node:test'
import { OF_ALL, OF_ONE_AUTHOR, RetryBudget } from '../lib/baileys/retry_budget.js'

/** @param {RetryBudget} budget @param {number} count @param {(n: number) => string} author */
const allowed = (budget, count, author) =>
  Array.from({ length: count }, (_, n) => budget.allows({ author: author(n), stored: true })).filter(Boolean).length

test('nobody is asked for what is never stored', () => {
  assert.equal(new RetryBudget().allows({ author: 'a', stored: false }), false)
})

test('one author has a budget, and others have theirs', () => {
  const budget = new RetryBudget(() => 1)
  assert.equal(allowed(budget, OF_ONE_AUTHOR + 50, () => 'mallory'), OF_ONE_AUTHOR)
  assert.equal(allowed(budget, 10, () => 'ana'), 10)
})

test('all together have a budget', () => {
  const budget = new RetryBudget(() => 1)
  assert.equal(allowed(budget, OF_ALL + 50, (n) => `person ${n}`), OF_ALL)
})

test('after ten minutes the counts begin anew', () => {
  let now = 1_000_000
  const budget = new RetryBudget(() => now)
  allowed(budget, OF_ONE_AUTHOR, () => 'ana')
  assert.equal(budget.allows({ author: 'ana', stored: true }), false)
  now += 600_001
  assert.equal(budget.allows({ author: 'ana', stored: true }), true)
})
