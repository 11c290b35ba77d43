import assert from 'node:assert/strict'
import { PassThrough } from 'node:stream'
import { test } from 'node:test'
import { stripVTControlCharacters } from 'node:util'
import type { Output } from '../cli.ts'
import { facts, table } from './table.ts'
import { age, oneLine } from './text.ts'

const plain: Output = new PassThrough()
const terminal: Output = Object.assign(new PassThrough(), { isTTY: true, columns: 20 })

test('columns are as wide as what is in them, and no line ends in blanks', () => {
  const text = table(
    plain,
    ['JOB', 'STATE'],
    [
      ['web', 'running'],
      ['a-long-one', { text: '', tone: 'bad' }],
    ],
  )
  assert.equal(text, 'JOB         STATE\nweb         running\na-long-one\n')
})

test('on a terminal the last column is cut where the line ends', () => {
  const text = table(terminal, ['JOB', 'NOTE'], [['web', 'a very long note indeed']])
  assert.equal(stripVTControlCharacters(text), 'JOB  NOTE\nweb  a very long no…\n')
})

test('what a task says cannot move the cursor or add lines', () => {
  const text = table(plain, ['NOTE'], [['a\u001b[2Jb\nc\rd\u009b1m']])
  assert.equal(text, 'NOTE\na [2Jb c d 1m\n')
  assert.equal(oneLine(' \u0000x\n'), 'x')
})

test('facts stand under each other', () => {
  assert.equal(
    facts(plain, [
      ['job', 'web'],
      ['version', 3],
    ]),
    'job      web\nversion  3\n',
  )
})

test('ages are one short word', () => {
  const minute = 60_000
  assert.equal(age(5000, 0), '5s')
  assert.equal(age(0, 5000), '0s')
  assert.equal(age(3 * minute, 0), '3m')
  assert.equal(age(3 * 60 * minute, 0), '3h')
  assert.equal(age(50 * 60 * minute, 0), '2d')
})
