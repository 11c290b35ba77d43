import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseAddress } from './address.ts'

test('addresses are understood as people write them', () => {
  for (const [text, host, port] of [
    ['127.0.0.1:8000', '127.0.0.1', 8000],
    ['control.example', 'control.example', 7447],
    ['https://control.example:9', 'control.example', 9],
    ['[::1]:8000', '::1', 8000],
    [':8000', '127.0.0.1', 8000],
  ] as const) {
    assert.deepEqual(parseAddress(text, 7447), { host, port }, text)
  }
})

test('what is no address is refused with an example', () => {
  for (const text of ['host:99999', 'a b', 'host:port'])
    assert.throws(() => parseAddress(text, 7447), /is not an address; write it like/)
})
