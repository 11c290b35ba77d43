import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { silentLog } from '../../src/kit/log.ts'
import { systemClock as clock } from '../../src/kit/system-clock.ts'
import { systemRandom as random } from '../../src/kit/system-random.ts'
import type { Egress } from '../../src/model/sandbox.ts'
import { chooseNetwork } from '../../src/sandboxes/network/choose.ts'
import { openNamespaceNetwork } from '../../src/sandboxes/network/namespace/namespace.ts'
import type { SandboxLink, SandboxNetwork } from '../../src/sandboxes/network.ts'
import { type Hears, listenTo } from '../fixtures/network/hearing.ts'
import { onOwnMachine } from '../fixtures/network/machine.ts'
import { killedAgent, openWorld, outside, type Peer, plugIn, sh } from '../fixtures/network/world.ts'

/** What a sandbox may reach and what not, with a real filter, real servers and a cable where the VM would be. */
const lacking = onOwnMachine()
const signal = new AbortController().signal
const names: Record<string, string> = {
  'example.org': outside.public,
  'api.example.org': outside.public,
  'evil.test': outside.other,
  'inside.example.org': outside.private,
  'host.example.org': outside.host,
}

check('with everything denied nothing is reached, and each attempt is told with its reason', async (rig) => {
  const guest = await rig.guest('denied0000000000')
  assert.equal(await guest.tcp(outside.public, 443), 'error: ECONNREFUSED')
  assert.equal(await guest.udp(outside.public, 9000), 'error: EHOSTUNREACH')
  await guest.hears({ destination: `${outside.public}:443/tcp`, reason: 'everything is denied to this sandbox' })
  await guest.hears({ destination: `${outside.public}:9000/udp`, reason: 'everything is denied to this sandbox' })
  assert.equal(await guest.dns('example.org'), '{"code":"REFUSED","addresses":[]}')
  await guest.hears({ destination: 'example.org:53', reason: 'everything is denied to this sandbox' })
})

check('with everything allowed the world is reached by every protocol, private networks are not', async (rig) => {
  const guest = await rig.guest('allowed000000000', { mode: 'allow' })
  assert.equal(await guest.tcp(outside.public, 443), `${outside.public}:443 heard hello`)
  assert.equal(await guest.udp(outside.other, 9000), `${outside.other}:9000 heard hello`)
  assert.equal(await guest.dns('example.org'), `{"code":"NOERROR","addresses":["${outside.public}"]}`)
  for (const address of [outside.private, outside.metadata]) {
    assert.equal(await guest.tcp(address, 80), 'error: ECONNREFUSED')
    await guest.hears({ destination: `${address}:80/tcp`, reason: /never reached unless a range inside it is listed/ })
  }
})

check('a listed range is reached by every protocol, and nothing beside it', async (rig) => {
  const guest = await rig.guest('ranges0000000000', { mode: 'list', cidrs: ['203.0.113.9/32'], domains: [] })
  assert.equal(await guest.tcp(outside.public, 9000), `${outside.public}:9000 heard hello`)
  assert.equal(await guest.udp(outside.public, 9000), `${outside.public}:9000 heard hello`)
  assert.equal(await guest.tcp('203.0.113.10', 9000), 'error: ECONNREFUSED')
  assert.equal(await guest.udp('203.0.113.10', 443), 'error: EHOSTUNREACH')
  await guest.hears({ destination: '203.0.113.10:443/udp', reason: 'no rule allows 203.0.113.10' })
})

check('a private network opens to a range inside it, and not to a wider one', async (rig) => {
  const guest = await rig.guest('private000000000', { mode: 'list', cidrs: ['0.0.0.0/0'], domains: [] })
  assert.equal(await guest.tcp(outside.public, 80), `${outside.public}:80 heard hello`)
  assert.equal(await guest.tcp(outside.private, 80), 'error: ECONNREFUSED')
  await guest.link.allow({ mode: 'list', cidrs: ['10.77.0.0/24'], domains: [] })
  assert.equal(await guest.tcp(outside.private, 80), `${outside.private}:80 heard hello`)
  assert.equal(await guest.tcp(outside.public, 80), 'error: ECONNREFUSED')
})

check('names are matched exactly, below a star, and in any case', async (rig) => {
  const guest = await rig.guest('names00000000000', {
    mode: 'list',
    cidrs: [],
    domains: ['Example.org', '*.example.org'],
  })
  assert.equal(await guest.http(outside.public, 'EXAMPLE.ORG'), `${outside.public}:80 heard GET / HTTP/1.1`)
  assert.equal(await guest.http(outside.public, 'api.example.org'), `${outside.public}:80 heard GET / HTTP/1.1`)
  assert.equal(await guest.http(outside.other, 'evil.test'), 'error: ECONNRESET')
  await guest.hears({ destination: 'evil.test:80', reason: 'no rule allows the name "evil.test"' })
  assert.equal(await guest.dns('api.EXAMPLE.org'), `{"code":"NOERROR","addresses":["${outside.public}"]}`)
  assert.equal(await guest.dns('evil.test'), '{"code":"REFUSED","addresses":[]}')
  assert.equal(await guest.dnsTcp('example.org'), `{"code":"NOERROR","addresses":["${outside.public}"]}`)
  assert.equal(await guest.dns('nowhere.example.org'), '{"code":"NXDOMAIN","addresses":[]}')
  await guest.link.allow({ mode: 'list', cidrs: [], domains: ['*.example.org'] })
  assert.equal(await guest.http(outside.public, 'example.org'), 'error: ECONNRESET')
})

check('a name leads to where it really is, whatever address the guest believes', async (rig) => {
  const guest = await rig.guest('spoofed000000000', { mode: 'list', cidrs: [], domains: ['example.org'] })
  assert.equal(await guest.http(outside.other, 'example.org'), `${outside.public}:80 heard GET / HTTP/1.1`)
  assert.match(await guest.tcp(outside.other, 443, 'something else'), /^error: /)
  await guest.hears({ destination: `${outside.other}:443/tcp`, reason: /speaks neither TLS nor HTTP/ })
})

check('a name that stands for a private network or for this machine is refused', async (rig) => {
  const guest = await rig.guest('rebind0000000000', { mode: 'list', cidrs: [], domains: ['*.example.org'] })
  for (const name of ['inside.example.org', 'host.example.org']) {
    assert.equal(await guest.http(outside.other, name), 'error: ECONNRESET')
    await guest.hears({ destination: `${name}:80`, reason: /is inside a network that no rule opens/ })
  }
  assert.equal(await guest.dns('inside.example.org'), '{"code":"NOERROR","addresses":[]}')
  await guest.link.allow({ mode: 'list', cidrs: ['10.77.0.5'], domains: ['*.example.org'] })
  assert.equal(await guest.http(outside.other, 'inside.example.org'), `${outside.private}:80 heard GET / HTTP/1.1`)
})

check('nothing on this machine is reached, even where its addresses are listed', async (rig) => {
  const server = createServer((socket) => socket.end('the host')).listen(7777, '0.0.0.0')
  try {
    const cidrs = ['203.0.113.0/24', '169.254.0.0/16', '10.0.0.0/8']
    const guest = await rig.guest('hostless00000000', { mode: 'list', cidrs, domains: [] })
    for (const address of [outside.host, '169.254.0.22', '10.198.0.0', '10.77.0.1'])
      assert.match(await guest.tcp(address, 7777), /^error: (ECONNREFUSED|closed)/, address)
    await guest.hears({ destination: `${outside.host}:7777/tcp`, reason: /is this machine/ })
    assert.equal(await guest.tcp(outside.public, 80), `${outside.public}:80 heard hello`)
  } finally {
    server.close()
  }
})

check('sandboxes do not reach each other, and nobody reaches them', async (rig) => {
  const everything: Egress = { mode: 'list', cidrs: ['0.0.0.0/0', '10.0.0.0/8', '169.254.0.0/16'], domains: [] }
  const [one, two] = [await rig.guest('one0000000000000', everything), await rig.guest('two0000000000000', everything)]
  await two.peer.ask('serve', { address: '169.254.0.21', port: 9000 })
  const cables = JSON.parse(await sh(`ip -n tutti-two0000000000000 -j -4 address show up0`))
  const addresses: string[] = cables[0].addr_info.map((info: { local: string }) => info.local)
  assert.equal(addresses.length, 2)
  for (const address of addresses) {
    assert.match(await one.tcp(address, 9000), /^error: /)
    assert.match(await rig.world.ask('tcp', { address, port: 9000, text: 'hello' }), /^error: /)
  }
})

check('a new policy holds at once and cuts what it denies', async (rig) => {
  const guest = await rig.guest('updates000000000', { mode: 'list', cidrs: ['203.0.113.0/24'], domains: ['evil.test'] })
  const heard = `${outside.public}:9000 heard`
  assert.equal(
    await guest.peer.ask('hold', { id: 'a', address: outside.public, port: 9000, text: 'one' }),
    `${heard} one`,
  )
  const hello = 'GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n'
  assert.match(await guest.peer.ask('hold', { id: 'b', address: outside.other, port: 80, text: hello }), /heard GET/)
  await guest.link.allow({ mode: 'list', cidrs: ['203.0.113.0/24'], domains: ['evil.test', 'example.org'] })
  assert.equal(await guest.peer.ask('say', { id: 'a', text: 'two' }), `${heard} two`)
  assert.equal(await guest.peer.ask('say', { id: 'b', text: 'two' }), `${outside.other}:80 heard two`)
  await guest.link.allow({ mode: 'list', cidrs: ['198.51.100.0/24'], domains: ['example.org'] })
  // The last acknowledgement may be refused before anything is said.
  assert.match(await guest.peer.ask('say', { id: 'a', text: 'three' }), /^error: (closed|ECONNRESET)/)
  assert.match(await guest.peer.ask('say', { id: 'b', text: 'three' }), /^error: (closed|ECONNRESET)/)
  assert.equal(await guest.tcp(outside.other, 9000), `${outside.other}:9000 heard hello`)
})

check('an agent that comes back finds its sandboxes as they were', async (rig) => {
  const guest = await rig.guest('adopted000000000', { mode: 'list', cidrs: ['203.0.113.9'], domains: ['evil.test'] })
  await rig.restart()
  assert.equal(await rig.network.adopt('neverthere000000'), undefined)
  const link = await rig.network.adopt('adopted000000000')
  assert.ok(link)
  assert.equal(await guest.tcp(outside.public, 80), `${outside.public}:80 heard hello`)
  assert.equal(await guest.http(outside.other, 'evil.test'), `${outside.other}:80 heard GET / HTTP/1.1`)
  await link.allow({ mode: 'deny' })
  assert.equal(await guest.tcp(outside.public, 80), 'error: ECONNREFUSED')
  await link.close()
  await link.close()
})

check('the place that a killed agent made is found by the next one', async (rig) => {
  await rig.network[Symbol.asyncDispose]()
  await killedAgent('namespace', rig.directory, 'survivor00000000')
  await rig.restart()
  const link = await rig.network.adopt('survivor00000000')
  assert.ok(link)
  await using peer = await plugIn(link)
  const hello = { port: 9000, text: 'hello' }
  assert.equal(await peer.ask('tcp', { address: outside.public, ...hello }), `${outside.public}:9000 heard hello`)
  assert.equal(await peer.ask('tcp', { address: outside.other, ...hello }), 'error: ECONNREFUSED')
})

check('what a killed agent left without a note is swept away, and a filter in the way is named', async (rig) => {
  await rig.network.open('unnoted000000000', { signal })
  await rig.forget('unnoted000000000')
  await rig.restart()
  await rig.network.reclaim(new Set())
  assert.doesNotMatch(await sh('ip netns list; ip -br link'), /tutti-|ttn/)
  assert.deepEqual(await chooseNetwork(), { kind: 'namespace' })
  await sh(
    "nft 'add table ip docker; add chain ip docker FORWARD { type filter hook forward priority 0; policy drop; }'",
  )
  const { kind, reason } = await chooseNetwork()
  await sh('nft delete table ip docker')
  assert.equal(kind, 'namespace')
  assert.match(reason ?? '', /table ip docker, chain FORWARD drops forwarded packets/)
})

check('what no sandbox holds is removed, and twenty places at once leave nothing', async (rig) => {
  const ids = Array.from({ length: 20 }, (_, n) => `many${String(n).padStart(12, '0')}`)
  const links = await Promise.all(ids.map((id) => rig.network.open(id, { signal })))
  assert.equal((await sh('ip netns list')).match(/tutti-many/g)?.length, 20)
  await links[0]?.close()
  await rig.restart()
  await rig.network.reclaim(new Set([ids[1] ?? '']))
  assert.equal((await sh('ip netns list')).match(/tutti-\S+/g)?.join(), `tutti-${ids[1]}`)
  await rig.network.reclaim(new Set())
  await rig.network[Symbol.asyncDispose]()
  assert.doesNotMatch(await sh('ip netns list'), /tutti-/)
  assert.doesNotMatch(await sh('ip -br link'), /ttn/)
  assert.doesNotMatch(await sh('nft list tables'), /tutti/)
  assert.doesNotMatch(await sh('ip address show lo'), /10\.198/)
  assert.equal(await sh('ls /run/tutti/network'), '')
})

interface Rig {
  directory: string
  world: Peer
  readonly network: SandboxNetwork & AsyncDisposable
  restart(): Promise<void>
  /** As if it had been killed before it wrote down that it has a place. */
  forget(id: string): Promise<void>
  guest(id: string, egress?: Egress): Promise<Guest>
}

interface Guest {
  peer: Peer
  link: SandboxLink
  tcp(address: string, port: number, text?: string): Promise<string>
  udp(address: string, port: number): Promise<string>
  http(address: string, host: string): Promise<string>
  dns(name: string): Promise<string>
  dnsTcp(name: string): Promise<string>
  hears: Hears
}

function check(title: string, body: (rig: Rig) => Promise<void>): void {
  const skip = lacking === undefined ? false : lacking
  test(`${title}${skip ? ` (skipped: ${skip})` : ''}`, { skip }, async () => {
    await using stack = new AsyncDisposableStack()
    const directory = await mkdtemp(join(tmpdir(), 'tutti-network-'))
    stack.defer(() => rm(directory, { recursive: true, force: true }))
    const world = stack.use(await openWorld())
    const open = () =>
      openNamespaceNetwork({
        ...{ clock, random, directory, log: silentLog },
        resolve: async (name) => ({
          exists: name in names,
          addresses: name in names ? [{ address: names[name] ?? '', ttl: 60 }] : [],
        }),
      })
    let network = await open()
    stack.defer(async () => {
      await network.reclaim(new Set())
      await network[Symbol.asyncDispose]()
    })
    await body({
      directory,
      world,
      get network() {
        return network
      },
      forget: (id) => rm(join(directory, 'places', `${id}.json`)),
      restart: async () => {
        await network[Symbol.asyncDispose]()
        network = await open()
      },
      guest: async (id, egress) => {
        const link = await network.open(id, { signal })
        if (egress) await link.allow(egress)
        return guestOf(link, stack.use(await plugIn(link)))
      },
    })
  })
}

function guestOf(link: SandboxLink, peer: Peer): Guest {
  return {
    peer,
    link,
    tcp: (address, port, text = 'hello') => peer.ask('tcp', { address, port, text }),
    udp: (address, port) => peer.ask('udp', { address, port, text: 'hello' }),
    http: (address, host) => peer.ask('tcp', { address, port: 80, text: `GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n` }),
    dns: (name) => peer.ask('dns', { address: link.identity?.gateway, name, kind: 'A' }),
    dnsTcp: (name) => peer.ask('dnsTcp', { address: link.identity?.gateway, name, kind: 'A' }),
    hears: listenTo(link),
  }
}
