import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { formatAddress, parseCidr } from '../../model/egress.ts'
import { isInternal } from './internal.ts'
import { compilePolicy } from './policy.ts'
import { contains, merge, type Range, subtract } from './ranges.ts'

test('everything allowed means the world, and nothing inside a network', () => {
  const policy = compilePolicy({ mode: 'allow' })
  const reached = ['1.1.1.1', '203.0.113.9', '9.255.255.255', '11.0.0.0', '172.32.0.0', '223.255.255.255']
  const closed = [
    '10.0.0.1',
    '172.16.0.1',
    '172.31.255.255',
    '192.168.1.1',
    '169.254.169.254',
    '100.64.0.1',
    '127.0.0.1',
    '0.0.0.0',
    '224.0.0.1',
    '255.255.255.255',
  ]
  for (const address of reached) assert.ok(policy.mayReach(address), address)
  for (const address of closed) assert.ok(!policy.mayReach(address), address)
  assert.ok(policy.mayAsk('anything.example') && !policy.judgesNames)
})

test('a range opens a private network only from inside', () => {
  const wide = compilePolicy({ mode: 'list', cidrs: ['0.0.0.0/0'], domains: [] })
  const inside = compilePolicy({ mode: 'list', cidrs: ['10.1.0.0/16', '169.254.169.254'], domains: [] })
  assert.ok(!wide.mayReach('10.1.2.3') && inside.mayReach('10.1.2.3') && !inside.mayReach('10.2.0.0'))
  assert.ok(!wide.mayReach('169.254.169.254') && inside.mayReach('169.254.169.254'))
})

test('names match exactly or below a star, in any case', () => {
  const { mayAsk } = compilePolicy({ mode: 'list', cidrs: [], domains: ['Example.org', '*.test'] })
  for (const name of ['example.org', 'EXAMPLE.ORG.', 'a.test', 'a.b.TEST']) assert.ok(mayAsk(name), name)
  for (const name of ['www.example.org', 'org', 'test', 'xexample.org', 'example.org.evil', ''])
    assert.ok(!mayAsk(name), name)
})

test('who is refused is told why', () => {
  const none = compilePolicy({ mode: 'deny' })
  const some = compilePolicy({ mode: 'list', cidrs: ['203.0.113.0/24'], domains: ['example.org'] })
  assert.equal(none.whyNot('203.0.113.9'), 'everything is denied to this sandbox')
  assert.equal(some.whyNot('198.51.100.7'), 'no rule allows 198.51.100.7')
  assert.match(some.whyNot('169.254.169.254'), /is the metadata service of clouds, which is never reached unless/)
  assert.equal(some.whyNotName('evil.test'), 'no rule allows the name "evil.test"')
})

const range = fc
  .tuple(fc.nat(300), fc.nat(300))
  .map(([a, b]): Range => ({ first: Math.min(a, b), last: Math.max(a, b) }))
const has = (ranges: readonly Range[], address: number) =>
  ranges.some(({ first, last }) => first <= address && address <= last)

test('ranges merged and subtracted hold exactly the addresses they should', () => {
  fc.assert(
    fc.property(fc.array(range, { maxLength: 12 }), fc.array(range, { maxLength: 12 }), (ranges, without) => {
      const left = subtract(ranges, without)
      for (let address = 0; address <= 301; address += 1) {
        assert.equal(contains(merge(ranges), address), has(ranges, address))
        assert.equal(contains(left, address), has(ranges, address) && !has(without, address))
      }
    }),
  )
})

test('whatever is listed, an internal address is reached only through a range inside its network', () => {
  const cidr = fc.tuple(fc.nat(2 ** 32 - 1), fc.nat(32)).map(([address, bits]) => {
    const size = 2 ** (32 - bits)
    return `${formatAddress(address - (address % size))}/${bits}`
  })
  fc.assert(
    fc.property(fc.array(cidr, { maxLength: 8 }), fc.nat(2 ** 32 - 1), (cidrs, address) => {
      const listed = cidrs.some((text) =>
        has(
          [parseCidr(text)].flatMap((one) => one ?? []),
          address,
        ),
      )
      const reached = compilePolicy({ mode: 'list', cidrs, domains: [] }).mayReach(formatAddress(address))
      if (!isInternal(address)) assert.equal(reached, listed)
      else assert.ok(!reached || listed)
    }),
    { numRuns: 500 },
  )
})
