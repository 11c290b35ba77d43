import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Constraint, constraintOperators, formatConstraint, parseConstraint } from './constraint.ts'

test('a constraint is one line of words', () => {
  const cases: [string, unknown][] = [
    ['os == macos', { subject: 'os', operator: '==', values: ['macos'] }],
    ['os==macos', { subject: 'os', operator: '==', values: ['macos'] }],
    ['label.rack in [a, "b c"]', { subject: 'label.rack', operator: 'in', values: ['a', 'b c'] }],
    ['label.rack not in [a]', { subject: 'label.rack', operator: 'not in', values: ['a'] }],
    ['attr.kernel version >=5.10', { subject: 'attr.kernel', operator: 'version', values: ['>=5.10'] }],
    [
      'label.features contains any [gpu, nvme]',
      { subject: 'label.features', operator: 'contains any', values: ['gpu', 'nvme'] },
    ],
    ['label.gpu exists', { subject: 'label.gpu', operator: 'exists', values: [] }],
    ['cores >= 4', { subject: 'cores', operator: '>=', values: ['4'] }],
    ['hostname =~ ^ci-\\d+$', { subject: 'hostname', operator: '=~', values: ['^ci-\\d+$'] }],
  ]
  for (const [text, expected] of cases) assert.deepEqual(parseConstraint(text), expected, text)
})

test('a mistake in one says what would be right', () => {
  const cases: [string, RegExp][] = [
    ['os', /is not a constraint; write it like/],
    ['os = macos', /write "==" to compare/],
    ['os is macos', /"is" is not an operator/],
    ['osx == 1', /"osx" is nothing a node has/],
    ['label. == a', /"label\." is nothing a node has/],
    ['os ==', /lacks a value/],
    ['label.gpu exists yes', /takes no value/],
    ['hostname =~ (', /is not a regular expression/],
    ['', /is not a constraint/],
  ]
  for (const [text, expected] of cases) {
    const said = parseConstraint(text)
    assert.equal(typeof said, 'string', text)
    assert.match(said as string, expected)
  }
})

test('a constraint that is shown reads as the same constraint', () => {
  const word = fc.stringMatching(/^[a-z][a-z0-9._-]{0,12}$/)
  const one = fc.constantFrom('==', '!=', '<', '>', '<=', '>=')
  const many = fc.constantFrom('in', 'not in', 'contains', 'contains any')
  fc.assert(
    fc.property(word, one, word, (name, operator, value) => {
      const constraint = { subject: `label.${name}`, operator, values: [value] }
      assert.deepEqual(parseConstraint(formatConstraint(constraint)), constraint)
    }),
  )
  fc.assert(
    fc.property(word, many, fc.array(word, { minLength: 1, maxLength: 4 }), (name, operator, values) => {
      const constraint = { subject: `label.${name}`, operator, values }
      assert.deepEqual(parseConstraint(formatConstraint(constraint)), constraint)
    }),
  )
})

test('any text is a constraint or a sentence, at once', () => {
  const piece = fc.constantFrom('os', ' ', '==', 'in', '[', ']', ',', '"', 'label.', 'not', '=~', '(', '*', 'a', '\n')
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.array(piece).map((parts) => parts.join('')),
      ),
      (text) => {
        const parsed = parseConstraint(text)
        if (typeof parsed === 'string') assert.ok(parsed.length > 0)
        else assert.ok(constraintOperators.includes(parsed.operator))
      },
    ),
  )
  assert.equal(Constraint.safeParse(`os == ${' '.repeat(990)}`).success, false)
})
