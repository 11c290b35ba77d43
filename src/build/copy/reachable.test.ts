import assert from 'node:assert/strict'
import { test } from 'node:test'
import { reachability, readRanges } from './reachable.ts'

test("addresses are the node's own, private or reachable, however they are written", () => {
  const cases = {
    own: ['127.9.9.9', '169.254.169.254', '::1', '::ffff:7f00:1', '::ffff:169.254.169.254', 'fe80::1', '0.0.0.0', '::'],
    private: ['10.0.0.1', '172.31.0.1', '192.168.0.1', '100.64.0.1', 'fd12::1', '::ffff:10.0.0.1', '64:ff9b::a00:1'],
    reachable: ['93.184.216.34', '2606:2800::1', '172.32.0.1', '::ffff:93.184.216.34'],
  }
  for (const [expected, addresses] of Object.entries(cases))
    for (const address of addresses) assert.equal(reachability(address), expected, address)
})

test('the owner of a node allows private ranges, and never the node itself', () => {
  const listed = readRanges('10.1.0.0/16, fd12::/16,192.168.7.5,127.0.0.0/8')
  for (const address of ['10.1.2.3', 'fd12::5', '192.168.7.5', '::ffff:10.1.2.3'])
    assert.equal(reachability(address, listed), 'reachable', address)
  for (const address of ['10.2.0.1', 'fd13::5', '192.168.7.6']) assert.equal(reachability(address, listed), 'private')
  assert.equal(reachability('127.0.0.1', listed), 'own')
  for (const text of ['', 'x', '10.0.0.0/33', '10.0.0.0/8;', 'example.com', '10.0.0.0/8,'])
    assert.equal(readRanges(text), undefined, text)
})
