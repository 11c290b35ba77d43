import assert from 'node:assert/strict'
import { test } from 'node:test'
import { heres, planStep, wanteds } from './plan.ts'

test('every pair of wanted and here has an answer', () => {
  for (const wanted of wanteds) for (const here of heres) assert.equal(typeof planStep(wanted, here), 'string')
})

test('an allocation that ended or is ending is never begun again', () => {
  for (const here of ['ended', 'ending', 'removing'] as const) {
    for (const wanted of wanteds) assert.notEqual(planStep(wanted, here), 'begin')
  }
})

test('only what is no longer named is removed', () => {
  for (const wanted of ['run', 'stop'] as const) {
    for (const here of heres) assert.ok(!planStep(wanted, here).includes('remove'))
  }
})

test('a plan carried out needs no second step', () => {
  assert.equal(planStep('gone', 'absent'), 'nothing')
  assert.equal(planStep('stop', 'ended'), 'nothing')
  assert.equal(planStep('run', 'alive'), 'update')
})
