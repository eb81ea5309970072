import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { ERROR_DATA, PARAMS, RESULTS } from '../lib/wire/types.js'

const FIXTURES = new URL('../../tests/wire/', import.meta.url)

/** @param {any} fixture */
function accepted({ kind, method, document }) {
  if (kind === 'error') return ERROR_DATA(document.error?.data)
  return kind === 'result' ? RESULTS[method](document.result) : PARAMS[method](document.params ?? {})
}

for (const file of readdirSync(FIXTURES).filter((name) => name.endsWith('.json'))) {
  for (const fixture of JSON.parse(readFileSync(new URL(file, FIXTURES), 'utf8'))) {
    test(`the wire's ${fixture.method} ${fixture.kind}: ${fixture.name} is ${fixture.valid ? 'accepted' : 'refused'}`, () => {
      assert.equal(accepted(fixture), fixture.valid)
    })
  }
}

test('every method of the table has a fixture', () => {
  const methods = readdirSync(FIXTURES).filter((name) => name.endsWith('.json')).map((name) => name.slice(0, -5))
  assert.deepEqual(methods.sort(), Object.keys(PARAMS).sort())
})
