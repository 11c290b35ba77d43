import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { formatDuration, formatSize, MiB, parseDuration, parseSize } from './quantity.ts'
import { Duration, Size } from './units.ts'

test('a size may be written in binary or decimal units, or as a number of bytes', () => {
  assert.equal(Size.parse('512MiB'), 512 * MiB)
  assert.equal(Size.parse('1.5 GiB'), 1.5 * 2 ** 30)
  assert.equal(Size.parse('10MB'), 10_000_000)
  assert.equal(Size.parse(4096), 4096)
})

test('what is no size is said with an example', () => {
  for (const text of ['', 'MiB', '12', '12XB', '-1MiB', '1e3MiB', '1 000MiB', '12 mib']) {
    assert.equal(parseSize(text), undefined, text)
    const result = Size.safeParse(text)
    assert.equal(result.success, false)
    assert.match(JSON.stringify(result.error?.issues), /is not a size; write it like/)
  }
  assert.equal(Size.safeParse(-1).success, false)
  assert.equal(Size.safeParse(1.5).success, false)
})

test('a duration may join units, and a bare number is milliseconds', () => {
  assert.equal(Duration.parse('1h30m'), 5_400_000)
  assert.equal(Duration.parse('1.5s'), 1500)
  assert.equal(Duration.parse('250ms'), 250)
  assert.equal(Duration.parse(250), 250)
  for (const text of ['', '10', 's', '1h 30m', '-1s', '1w', '1s1']) assert.equal(parseDuration(text), undefined, text)
})

test('sizes and durations are shown as people say them', () => {
  assert.equal(formatSize(0), '0 B')
  assert.equal(formatSize(1536 * MiB), '1.5 GiB')
  assert.equal(formatDuration(0), '0ms')
  assert.equal(formatDuration(5_400_000), '1h30m')
  assert.equal(formatDuration(90_061_000), '1d1h')
})

test('no text crashes a parser, and whole seconds survive being shown and read', () => {
  fc.assert(
    fc.property(fc.string({ maxLength: 40 }), (text) => {
      for (const value of [parseSize(text), parseDuration(text)]) {
        assert.ok(value === undefined || (Number.isSafeInteger(value) && value >= 0), `${text} is ${value}`)
      }
    }),
  )
  fc.assert(fc.property(fc.integer({ min: 1, max: 3599 }), (s) => parseDuration(formatDuration(s * 1000)) === s * 1000))
})

test('a size or duration too large to count is refused rather than rounded', () => {
  for (const text of ['99999999999999999999TiB', `${'9'.repeat(400)}TiB`]) {
    assert.equal(Size.safeParse(text).success, false, text)
  }
  assert.equal(Duration.safeParse(`${'9'.repeat(400)}d`).success, false)
})
