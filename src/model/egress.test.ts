import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Egress, formatAddress, parseCidr } from './egress.ts'

test('ranges and names that can be meant are taken', () => {
  const cidrs = ['203.0.113.0/24', '203.0.113.7', '10.1.2.0/24', '0.0.0.0/0', '169.254.169.254/32']
  const domains = ['example.org', '*.Example.org', 'a_b.example.org', 'xn--bcher-kva.example', 'localhost']
  assert.deepEqual(Egress.parse({ mode: 'list', cidrs, domains }), { mode: 'list', cidrs, domains })
  assert.deepEqual(Egress.parse({ mode: 'list' }), { mode: 'list', cidrs: [], domains: [] })
})

test('a range that cannot be meant is answered with what is wrong with it', () => {
  for (const [cidr, said] of [
    ['203.0.113.5/24', /did you mean 203\.0\.113\.0\/24\?/],
    ['203.0.113.0/33', /length from 0 to 32/],
    ['203.0.113.0/', /length from 0 to 32/],
    ['203.0.113.0/24/1', /length from 0 to 32/],
    ['203.0.113', /not an IPv4 range, such as/],
    ['256.1.1.1', /not an IPv4 range/],
    ['010.1.1.1', /not an IPv4 range/],
    ['example.org', /names belong in "domains"/],
    ['fd00::/8', /IPv6/],
    ['127.0.0.1', /loopback/],
    ['224.0.0.0/4', /multicast/],
  ] as const) {
    assert.match(mistake({ mode: 'list', cidrs: [cidr] }), said, cidr)
  }
})

test('a name that cannot be meant is answered with what is wrong with it', () => {
  for (const [domain, said] of [
    ['https://example.org', /URL/],
    ['example.org/path', /addresses belong in "cidrs"/],
    ['203.0.113.7', /addresses belong in "cidrs"/],
    ['example.org:443', /has a port/],
    ['example.*', /star/],
    ['*example.org', /star/],
    ['*', /star/],
    ['example.org.', /dot/],
    ['bücher.example', /xn--/],
    ['exa mple.org', /not a host name/],
    ['-a.example', /not a host name/],
    ['a..example', /not a host name/],
    ['', /not a host name/],
    [`${'a'.repeat(64)}.example`, /not a host name/],
  ] as const) {
    assert.match(mistake({ mode: 'list', domains: [domain] }), said, domain)
  }
})

test('a range is read as its first and last address', () => {
  const range = parseCidr('203.0.113.64/26')
  assert.ok(range)
  assert.deepEqual([formatAddress(range.first), formatAddress(range.last)], ['203.0.113.64', '203.0.113.127'])
  assert.equal(parseCidr('203.0.113.65/26'), undefined)
  assert.deepEqual(parseCidr('0.0.0.0/0'), { first: 0, last: 2 ** 32 - 1 })
})

function mistake(egress: unknown): string {
  const result = Egress.safeParse(egress)
  assert.ok(!result.success)
  return result.error.issues.map((issue) => issue.message).join('\n')
}
