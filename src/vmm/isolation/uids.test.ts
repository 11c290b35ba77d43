import assert from 'node:assert/strict'
import { test } from 'node:test'
import { spareUids } from './uids.ts'

test('a machine gives VMs users that no distribution uses', () => {
  assert.deepEqual(spareUids('         0          0 4294967295\n'), { first: 1_879_048_192, last: 2_147_352_575 })
})

test('a container gives the upper half of its own, without nobody', () => {
  assert.deepEqual(spareUids('0 100000 65536'), { first: 32_768, last: 65_533 })
  assert.deepEqual(spareUids('0 1000 1\n1 100000 65536'), { first: 32_769, last: 65_533 })
})

test('where there are hardly any users VMs get none', () => {
  assert.equal(spareUids('0 1000 1'), undefined)
  assert.equal(spareUids(''), undefined)
})
