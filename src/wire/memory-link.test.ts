import assert from 'node:assert/strict'
import { test } from 'node:test'
import { all, isFault, take } from '../../test/conformance/link.ts'
import { seededRandom } from '../kit/random.ts'
import { SteppedClock } from '../kit/stepped-clock.ts'
import { NodeId } from '../model/ids.ts'
import type { AgentLink } from './link.ts'
import { memoryNetwork } from './memory-link.ts'
import { leaseMs } from './messages.ts'

const node = NodeId.parse('0123456789abcdef')
const signal = new AbortController().signal

function network() {
  const clock = new SteppedClock()
  const links: AgentLink[] = []
  const net = memoryNetwork({ clock, random: seededRandom('net') })
  const crash = net.onAgent((link) => void links.push(link))
  return { clock, links, net, crash }
}

test('on a slow line a message arrives after its delay of virtual time, and not before', async () => {
  const { clock, links, net } = network()
  const agent = await net.dial(node, { services: {}, signal })
  net.delay(node, 200)
  const heard = take(only(links).messages, 1)
  let arrivedAt = -1
  void heard.then(() => {
    arrivedAt = clock.monotonic()
  })
  await agent.send({ type: 'beat' })
  await clock.advance(199)
  assert.equal(arrivedAt, -1)
  await clock.advance(1)
  assert.equal(arrivedAt, 200)
})

test('what is said on a cut line arrives once it is healed', async () => {
  const { clock, links, net } = network()
  const agent = await net.dial(node, { services: {}, signal })
  const heard = take(only(links).messages, 1)
  let arrived = false
  void heard.then(() => {
    arrived = true
  })
  net.cut(node)
  await agent.send({ type: 'resync' })
  await clock.advance(leaseMs - 1)
  assert.equal(arrived, false)
  net.heal(node)
  await clock.settle()
  assert.deepEqual(await heard, [{ type: 'resync' }])
})

test('a line cut for a lease is given up by the agent; the control plane is told when it is healed', async () => {
  const { clock, links, net } = network()
  const agent = await net.dial(node, { services: {}, signal })
  const down = assert.rejects(all(agent.messages), isFault('unavailable'))
  let controlKnows = false
  const up = assert.rejects(all(only(links).messages), isFault('unavailable')).then(() => {
    controlKnows = true
  })
  net.cut(node)
  await clock.advance(leaseMs)
  await down
  assert.equal(controlKnows, false)
  net.heal(node)
  await up
})

test('nobody can dial over a cut line, nor to a control plane that is down', async () => {
  const { clock, net, crash } = network()
  net.cut(node)
  const dialling = assert.rejects(net.dial(node, { services: {}, signal }), isFault('unavailable', /in time/))
  await clock.advance(10_000)
  await dialling
  net.heal(node)
  crash()
  await assert.rejects(net.dial(node, { services: {}, signal }), isFault('unavailable', /nothing listens/))
})

test('a control plane that crashes is noticed at once, and can be dialled when it is back', async () => {
  const { net, crash } = network()
  const agent = await net.dial(node, { services: {}, signal })
  crash()
  await assert.rejects(all(agent.messages), isFault('unavailable'))
  const links: AgentLink[] = []
  net.onAgent((link) => void links.push(link))
  const again = await net.dial(node, { services: {}, signal })
  await again.send({ type: 'beat' })
  assert.deepEqual(await take(only(links).messages, 1), [{ type: 'beat' }])
})

test('ten thousand agents beat in virtual time without a timer of the machine', async () => {
  const { clock, links, net } = network()
  const agents = await Promise.all(
    Array.from({ length: 10_000 }, (_, n) =>
      net.dial(NodeId.parse(String(n).padStart(16, '0')), { services: {}, signal }),
    ),
  )
  let beats = 0
  for (const link of links) {
    void (async () => {
      for await (const message of link.messages) if (message.type === 'beat') beats++
    })()
  }
  for (let round = 0; round < 3; round++) await Promise.all(agents.map((agent) => agent.send({ type: 'beat' })))
  await clock.settle()
  assert.equal(beats, 30_000)
  assert.equal(clock.sleepers, 0)
})

function only(links: AgentLink[]): AgentLink {
  const [link] = links
  assert(link && links.length === 1, `${links.length} agents arrived`)
  return link
}
