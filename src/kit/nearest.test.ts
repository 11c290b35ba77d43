import assert from 'node:assert/strict'
import { test } from 'node:test'
import { closest } from './nearest.ts'

test('the word that was meant is one slip away, or begins so', () => {
  const known = ['status', 'stop', 'run', 'restart', 'revert']
  const slips: [string, string][] = [
    ['stauts', 'status'],
    ['stpo', 'stop'],
    ['rn', 'run'],
    ['RUN', 'run'],
    ['rever', 'revert'],
    ['rest', 'restart'],
  ]
  for (const [word, meant] of slips) assert.equal(closest(word, known), meant, word)
  for (const word of ['', 'x', 'elephant', 'a'.repeat(10_000)]) assert.equal(closest(word, known), undefined)
})
