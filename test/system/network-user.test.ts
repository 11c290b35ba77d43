import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { silentLog } from '../../src/kit/log.ts'
import { systemClock as clock } from '../../src/kit/system-clock.ts'
import type { Egress } from '../../src/model/sandbox.ts'
import { chooseNetwork } from '../../src/sandboxes/network/choose.ts'
import { openUserNetwork } from '../../src/sandboxes/network/user/user.ts'
import type { SandboxLink, SandboxNetwork } from '../../src/sandboxes/network.ts'
import { type FrameGuest, plugFrames } from '../fixtures/network/frames.ts'
import { type Hears, listenTo } from '../fixtures/network/hearing.ts'
import { onOwnMachine } from '../fixtures/network/machine.ts'
import { openWorld, outside } from '../fixtures/network/world.ts'

/** The network that needs no root: the world is made as root, then the file goes on as nobody. */
const signal = new AbortController().signal
const names: Record<string, string> = {
  'example.org': outside.public,
  'evil.test': outside.other,
  'inside.example.org': outside.private,
}
const lacking = await becomeNobody()

check('without root this network is the best that can be had', async () => {
  const { kind, reason } = await chooseNetwork()
  assert.deepEqual({ kind, reason }, { kind: 'user', reason: 'network namespaces of their own need root' })
})

check('without root, too, nothing is reached that is not allowed, and each attempt is told', async (rig) => {
  const guest = await rig.guest('denied0000000000')
  assert.match(await guest.tcp(outside.public, 443), /^error: /)
  await guest.hears({ destination: `${outside.public}:443/tcp`, reason: 'everything is denied to this sandbox' })
  assert.equal(await guest.dns('example.org'), '{"code":"REFUSED","addresses":[]}')
  await guest.hears({ destination: 'example.org:53', reason: 'everything is denied to this sandbox' })
  await guest.link.allow({ mode: 'allow' })
  assert.equal(await guest.tcp(outside.public, 443), `${outside.public}:443 heard hello`)
  assert.match(await guest.tcp(outside.private, 80), /^error: /)
  await guest.hears({ destination: `${outside.private}:80/tcp`, reason: /never reached unless a range inside it/ })
  assert.match(await guest.udp(outside.public, 9000), /^error: /)
  await guest.hears({ destination: `${outside.public}:9000/udp`, reason: /by TCP only/ })
})

check('without root, too, ranges and names are judged as they are listed', async (rig) => {
  const guest = await rig.guest('listed0000000000', {
    mode: 'list',
    cidrs: ['203.0.113.9'],
    domains: ['*.org', 'EVIL.test'],
  })
  assert.equal(await guest.tcp(outside.public, 9000), `${outside.public}:9000 heard hello`)
  assert.match(await guest.tcp('203.0.113.10', 9000), /^error: /)
  assert.equal(await guest.http('203.0.113.10', 'evil.test'), `${outside.other}:80 heard GET / HTTP/1.1`)
  assert.match(await guest.http('203.0.113.10', 'other.test'), /^error: /)
  await guest.hears({ destination: 'other.test:80', reason: 'no rule allows the name "other.test"' })
  assert.match(await guest.http('203.0.113.10', 'inside.example.org'), /^error: /)
  assert.equal(await guest.dns('example.org'), `{"code":"NOERROR","addresses":["${outside.public}"]}`)
  assert.equal(await guest.dns('other.test'), '{"code":"REFUSED","addresses":[]}')
})

check('without root, too, this machine and other sandboxes stay closed', async (rig) => {
  const everything: Egress = { mode: 'list', cidrs: ['0.0.0.0/0', '10.0.0.0/8', '169.254.0.0/16'], domains: [] }
  const guest = await rig.guest('closed0000000000', everything)
  await rig.guest('another000000000', everything)
  for (const address of [outside.host, '169.254.0.22', '10.198.0.2', '127.0.0.1'])
    assert.match(await guest.tcp(address, 80), /^error: /, address)
  await guest.hears({ destination: `${outside.host}:80/tcp`, reason: /is this machine/ })
})

check(
  'without root, too, an agent that comes back finds its sandboxes, and what nobody holds is ended',
  async (rig) => {
    const guest = await rig.guest('adopted000000000', { mode: 'list', cidrs: ['203.0.113.9'], domains: [] })
    await rig.guest('forgotten0000000')
    await rig.restart()
    await rig.network.reclaim(new Set(['adopted000000000']))
    assert.equal(await rig.network.adopt('forgotten0000000'), undefined)
    const link = await rig.network.adopt('adopted000000000')
    assert.ok(link)
    assert.equal(await guest.tcp(outside.public, 80), `${outside.public}:80 heard hello`)
    await link.close()
    await link.close()
    await rig.network[Symbol.asyncDispose]()
    assert.deepEqual(await readdir(rig.directory), ['places'])
    assert.deepEqual(await programsNaming(rig.directory), [])
  },
)

interface Rig {
  directory: string
  readonly network: SandboxNetwork & AsyncDisposable
  restart(): Promise<void>
  guest(id: string, egress?: Egress): Promise<FrameGuest & { link: SandboxLink; hears: Hears }>
}

function check(title: string, body: (rig: Rig) => Promise<void>): void {
  const skip = lacking === undefined ? false : lacking
  test(`${title}${skip ? ` (skipped: ${skip})` : ''}`, { skip }, async () => {
    await using stack = new AsyncDisposableStack()
    const directory = await mkdtemp(join(tmpdir(), 'tutti-user-'))
    stack.defer(() => rm(directory, { recursive: true, force: true }))
    const open = () =>
      openUserNetwork({
        ...{ clock, directory, log: silentLog },
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
      get network() {
        return network
      },
      restart: async () => {
        await network[Symbol.asyncDispose]()
        network = await open()
      },
      guest: async (id, egress) => {
        const link = await network.open(id, { signal })
        if (egress) await link.allow(egress)
        return { ...stack.use(await plugFrames(link)), link, hears: listenTo(link) }
      },
    })
  })
}

/** The reason to skip, or undefined: then this process is an ordinary user on a machine of its own with a world around. */
async function becomeNobody(): Promise<string | undefined> {
  const missing = onOwnMachine(['passt'])
  if (missing !== undefined) return missing
  const through = ['--reuid=65534', '--regid=65534', '--clear-groups']
  try {
    execFileSync('setpriv', [...through, 'test', '-r', new URL('../../src/kit/log.ts', import.meta.url).pathname])
    execFileSync('setpriv', [...through, 'unshare', '--user', '--net', '--map-root-user', 'nft', 'list', 'tables'])
  } catch {
    return 'needs user namespaces for everybody, and a checkout that everybody may read'
  }
  const world = await openWorld()
  after(() => world.hangUp())
  process.setgroups?.([])
  process.setgid?.(65534)
  process.setuid?.(65534)
  return undefined
}

async function programsNaming(directory: string): Promise<string[]> {
  const found = await Promise.all(
    (await readdir('/proc'))
      .filter((name) => /^\d+$/.test(name))
      .map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')),
  )
  return found.filter((line) => line.includes(directory))
}
