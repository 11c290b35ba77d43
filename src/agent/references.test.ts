import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { replaceIn, replaceReferences } from './references.ts'

const known = new Map<string, string>([
  ['port.http', '8080'],
  ['node.name', 'n'],
])

test('references are replaced anywhere in a value, and an escaped one stays', () => {
  assert.deepEqual(replaceIn({ args: ['-p', '${port.http}'], n: 1, e: '$${port.http} ${ node.name }' }, known), {
    args: ['-p', '8080'],
    n: 1,
    e: '${port.http} n',
  })
})

test('an unknown reference names itself and the nearest known; an open one says so', () => {
  assert.throws(() => replaceReferences('${port.htp}', known), {
    code: 'invalid',
    message: /"\$\{port.htp\}" is not known here; did you mean "\$\{port.http\}"\?/,
  })
  assert.throws(() => replaceReferences('${whatever}', known), /known are port\.http, node\.name/)
  assert.throws(() => replaceReferences('a ${port', known), /is not closed/)
})

test('text without references is left as it is, and what was put in is not looked at again', () => {
  fc.assert(fc.property(fc.string(), (text) => text.includes('${') || replaceReferences(text, known) === text))
  assert.equal(replaceReferences('${a}', new Map([['a', '${b}']])), '${b}')
})
