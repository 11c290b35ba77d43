import assert from 'node:assert/strict'
import { test } from 'node:test'
import { SteppedClock } from '../../kit/stepped-clock.ts'
import type { Denial } from '../network.ts'
import { openDenials } from './denials.ts'
import { readTrace } from './namespace/denied-packets.ts'

test('a flood of denials is cut short, and says how much was left out', async () => {
  const clock = new SteppedClock()
  const denials = openDenials(clock)
  const note = () => denials.note({ destination: '203.0.113.9:443/tcp', reason: 'no rule allows 203.0.113.9' })
  for (let n = 0; n < 1000; n += 1) note()
  await clock.advance(1000)
  note()
  denials.end()
  const heard: Denial[] = []
  for await (const denial of denials) heard.push(denial)
  assert.equal(heard.length, 51)
  assert.equal(heard[50]?.reason, 'no rule allows 203.0.113.9 (950 more denials before this one are not listed)')
})

test('a traced packet says by which interface it came and where it wanted to go', () => {
  const line = (table: string, rest: string) =>
    `trace id 1f0a ip ${table} denied packet: iif "ttn0-7" ether saddr 02:00:00:00:00:01 ip saddr 169.254.0.21 ip daddr 203.0.113.9 ip ttl 63 ${rest}`
  const read = (rest: string) => readTrace(line('tutti_net_0', rest), 'tutti_net_0')
  const from = { device: 'ttn0-7', source: '169.254.0.21', address: '203.0.113.9' }
  assert.deepEqual(read('ip protocol udp ip length 33 udp sport 4000 udp dport 443 udp length 13'), {
    ...from,
    rest: ':443/udp',
  })
  assert.deepEqual(read('ip protocol tcp tcp sport 4000 tcp dport 22 tcp flags == syn'), { ...from, rest: ':22/tcp' })
  assert.deepEqual(read('ip length 84 icmp type echo-request icmp code net-unreachable'), { ...from, rest: '/icmp' })
  assert.deepEqual(read('ip protocol gre ip length 84'), { ...from, rest: '/gre' })
  assert.equal(readTrace(line('tutti_net_1', 'udp dport 1'), 'tutti_net_0'), undefined)
  assert.equal(
    readTrace('trace id 1f0a ip tutti_net_0 denied rule ip saddr 1.2.3.4 drop (verdict drop)', 'tutti_net_0'),
    undefined,
  )
})
