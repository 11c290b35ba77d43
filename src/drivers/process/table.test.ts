import assert from 'node:assert/strict'
import { test } from 'node:test'
import { timeMs } from './table.ts'

test('the times of ps are understood', () => {
  assert.deepEqual(['0:00.50', '1:02', '01:00:00', '2-00:00:01'].map(timeMs), [500, 62_000, 3_600_000, 172_801_000])
})
