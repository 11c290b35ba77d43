import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { silentLog as log } from '../../src/kit/log.ts'
import { systemClock as clock } from '../../src/kit/system-clock.ts'
import { systemRandom as random } from '../../src/kit/system-random.ts'
import { openNamespaceNetwork } from '../../src/sandboxes/network/namespace/namespace.ts'
import { openUserNetwork } from '../../src/sandboxes/network/user/user.ts'
import { lackingForVm, startGuestVm } from '../fixtures/guest-vm.ts'
import { listenTo } from '../fixtures/network/hearing.ts'
import { onOwnMachine } from '../fixtures/network/machine.ts'
import { openWorld, outside } from '../fixtures/network/world.ts'

/** Both networks with a real VM on them, whose agent is told who it is as a sandbox's is. */
const lacking = (await lackingForVm()) ?? onOwnMachine(['passt'])
const resolve = async (name: string) => ({
  exists: name === 'example.org',
  addresses: name === 'example.org' ? [{ address: outside.public, ttl: 60 }] : [],
})

for (const kind of ['namespace', 'user'] as const) {
  const skip = lacking ?? false
  test(`a real machine on the ${kind} network reaches what it may and nothing else${skip ? ` (skipped: ${skip})` : ''}`, {
    skip,
  }, async () => {
    const signal = AbortSignal.timeout(120_000)
    await using stack = new AsyncDisposableStack()
    stack.use(await openWorld())
    const directory = await mkdtemp(join(tmpdir(), 'tutti-netvm-'))
    stack.defer(() => rm(directory, { recursive: true, force: true }))
    const options = { clock, random, log, directory, resolve }
    const network = stack.use(await (kind === 'user' ? openUserNetwork(options) : openNamespaceNetwork(options)))
    const link = await network.open('machine000000000', { signal })
    stack.defer(() => link.close())
    await link.allow({ mode: 'list', cidrs: ['203.0.113.9'], domains: ['example.org'] })
    const hears = listenTo(link)
    const vm = stack.use(await startGuestVm({ network: link.backend }))
    const channel = stack.use(await vm.connect())
    await channel.identify(
      {
        ...{ generation: 'one', entropy: randomBytes(32), now: clock.now(), hostname: 'box', env: {}, fresh: true },
        ...{ machineId: randomBytes(16).toString('hex'), network: link.identity },
      },
      { signal },
    )
    const run = async (script: string): Promise<string> => {
      const execution = await channel.exec({ command: ['sh', '-c', script], env: {} }, { signal })
      execution.stdin.end()
      let out = ''
      for await (const chunk of execution.stdout ?? []) out += chunk
      await execution.exited
      return out.trim()
    }
    const talk = (text: string, address: string, port: number) =>
      run(`(printf '${text}'; sleep 1) | nc -w 3 ${address} ${port} 2>&1`)
    assert.equal(await talk('hello', outside.public, 9000), `${outside.public}:9000 heard hello`)
    const request = 'GET / HTTP/1.0\\r\\nHost: example.org\\r\\n\\r\\n'
    assert.equal(await talk(request, outside.other, 80), `${outside.public}:80 heard GET / HTTP/1.0`)
    assert.doesNotMatch(await talk('hello', outside.other, 9000), /heard/)
    await hears({ destination: `${outside.other}:9000/tcp`, reason: /no rule allows/ })
    assert.match(await run(`nslookup example.org ${link.identity?.gateway}`), new RegExp(outside.public))
    assert.doesNotMatch(await run(`nslookup evil.test ${link.identity?.gateway}`), new RegExp(outside.other))
    await hears({ destination: 'evil.test:53', reason: 'no rule allows the name "evil.test"' })
  })
}
