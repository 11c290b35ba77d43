import assert from 'node:assert/strict'
import { test } from 'node:test'
import { cacheBudget, isShort } from './cache-budget.ts'

test('builds may take a disk up to a tenth, and are then trimmed until a fifth is free', () => {
  const disk = { usedBytes: 600, freeBytes: 300, totalBytes: 1000 }
  assert.deepEqual(cacheBudget(disk), { highBytes: 800, lowBytes: 700 })
  assert.equal(isShort(disk), false)
  // Full of what is not ours: all that can go goes.
  const full = { usedBytes: 50, freeBytes: 20, totalBytes: 1000 }
  assert.deepEqual(cacheBudget(full), { highBytes: 0, lowBytes: 0 })
  assert.equal(isShort(full), true)
})

test('what the owner says counts where it is less', () => {
  const disk = { usedBytes: 600, freeBytes: 300, totalBytes: 1000 }
  assert.deepEqual(cacheBudget(disk, 500), { highBytes: 500, lowBytes: 400 })
  assert.deepEqual(cacheBudget(disk, 10_000), { highBytes: 800, lowBytes: 700 })
})
