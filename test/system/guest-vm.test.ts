import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { GuestChannel, GuestIdentity } from '../../src/guest/channel.ts'
import { type GuestVm, lackingForVm, startGuestVm } from '../fixtures/guest-vm.ts'

/** The agent as the first process of a real machine: what it cannot show on the host. */
const skip = (await lackingForVm()) ?? false
const signal = AbortSignal.timeout(300_000)

describe('in a virtual machine', { skip }, () => {
  let vm: GuestVm
  let channel: GuestChannel

  before(async () => {
    vm = await startGuestVm({
      files: {
        '/etc/tutti/hooks.d/10-note': '#!/bin/sh\necho "$TUTTI_GENERATION $(hostname)" >> /root/hooked\n',
        '/etc/ssh/ssh_host_ed25519_key': 'old',
        '/etc/hosts': '10.0.0.9 printer\n',
        // Only what the agent asks of it: the name of the file is the last argument.
        '/usr/bin/ssh-keygen': '#!/bin/sh\nfor last; do :; done\necho new > "$last"\n',
        '/sbin/own-init': '#!/bin/sh\necho $$ > /run/own-init\nexec sleep 100000\n',
      },
      words: 'tutti.init=/sbin/own-init',
    })
    channel = await vm.connect()
  })
  after(() => vm?.[Symbol.asyncDispose]())

  const run = async (script: string, options: { user?: string; input?: string } = {}) => {
    const { user, input } = options
    const execution = await channel.exec({ command: ['sh', '-c', script], env: {}, user }, { signal })
    execution.stdin.end(input)
    let out = ''
    const collect = async (stream: AsyncIterable<Buffer> | undefined) => {
      for await (const chunk of stream ?? []) out += chunk
    }
    await Promise.all([collect(execution.stdout), collect(execution.stderr)])
    await execution.exited
    return out.trim()
  }

  test('the agent is process 1 of it, on the disk, with what programs expect', async () => {
    assert.equal(await run('echo $PPID'), '1')
    assert.match(await run('cat /proc/mounts'), /\/dev\/vda \/ ext4 rw/)
    for (const path of [
      '/dev/pts/ptmx',
      '/dev/shm',
      '/run/tutti',
      '/proc/self/fd',
      '/sys/fs/cgroup/cgroup.procs',
      '/tmp',
    ]) {
      assert.equal(await run(`ls -d ${path}`), path)
    }
    assert.equal(await run('stat -c %a /tmp /dev/shm'), '1777\n1777')
    assert.match(await run('id', { user: 'ada' }), /uid=1000\(ada\) gid=1000\(ada\) groups=1000\(ada\),2000\(makers\)/)
    assert.equal(await run('pwd; echo $HOME', { user: 'ada' }), '/home/ada\n/home/ada')
    assert.match(await run('cat /proc/self/cgroup'), /^0::\/tutti$/)
    assert.equal(await run('echo again > /dev/stdout', { user: 'ada' }), 'again')
    assert.doesNotMatch(await vm.console(), /tutti-guest:/)
  })

  test('users and groups are those of the files as they are now, whatever was found before', async () => {
    const ada = () => run('id', { user: 'ada' })
    // Old enough to be remembered.
    while (Number(await run('echo $(($(date +%s) - $(stat -c %Z /etc/passwd)))')) < 3) await sleep(200)
    const before = await ada()
    assert.equal(await ada(), before)
    await run('sed s/makers/bakers/ /etc/group > /tmp/group; cat /tmp/group > /etc/group')
    assert.equal(await ada(), before.replace('makers', 'bakers'))
    await run('sed "s/^ada:x:1000:/ada:x:1001:/" /etc/passwd > /tmp/passwd; mv /tmp/passwd /etc/passwd')
    assert.match(await ada(), /^uid=1001\(ada\)/)
    await run('sed "s/^ada:x:1001:/ada:x:1000:/" /etc/passwd > /tmp/passwd; cat /tmp/passwd > /etc/passwd')
    await run('sed s/bakers/makers/ /etc/group > /tmp/group; cat /tmp/group > /etc/group')
    assert.equal(await ada(), before)
  })

  test('the image’s own init runs among the workload when it is asked for', async () => {
    const pid = await run('cat /run/own-init')
    assert.match(await run(`tr '\\0' ' ' < /proc/${pid}/cmdline`), /^sleep 100000/)
    assert.equal(await run(`cat /proc/${pid}/cgroup`), '0::/tutti')
  })

  test('orphans are taken in, and none stays a zombie', async () => {
    await run('(sleep 0.1 &) ; (true &) ; true')
    let zombies = 'x'
    while (zombies !== '') zombies = await run("grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null")
  })

  test('freezing stops a loop that runs, and thawing lets it go on', async () => {
    const loop = await channel.start(
      { command: ['sh', '-c', 'i=0; while :; do i=$((i+1)); echo $i > /run/count; done'], env: {} },
      { signal },
    )
    const count = async () => {
      const chunks: Buffer[] = []
      for await (const chunk of await channel.files.read('/run/count', { signal })) chunks.push(chunk)
      return Number(Buffer.concat(chunks).toString() || Number.NaN)
    }
    while (!((await count().catch(() => Number.NaN)) > 0)) await sleep(20)
    await channel.freeze({ sync: false, signal })
    const [first, , second] = [await count(), await sleep(300), await count()]
    assert.deepEqual(first, second)
    await channel.thaw({ signal })
    while (!((await count()) > (first || 0) + 3)) await sleep(20)
    loop.kill('SIGKILL')
    await loop.exited
  })

  test('identify makes the guest who it is, before what was frozen goes on', async () => {
    const bootId = await run('cat /proc/sys/kernel/random/boot_id')
    await channel.freeze({ sync: true, signal })
    const network = {
      mac: '02:00:00:00:00:07',
      address: '10.7.0.2',
      prefix: 30,
      gateway: '10.7.0.1',
      nameservers: ['10.7.0.1', '1.1.1.1'],
    }
    const identity: GuestIdentity = {
      generation: 'gen-7',
      entropy: randomBytes(32),
      now: Date.UTC(2031, 4, 6, 7, 8, 9),
      hostname: 'clone-7',
      machineId: '0123456789abcdef'.repeat(2),
      env: { TOKEN: 'secret' },
      network,
      fresh: true,
    }
    await channel.identify(identity, { signal })
    await channel.thaw({ signal })
    assert.equal(
      await run('hostname; cat /etc/hostname /etc/machine-id /run/tutti/generation'),
      `clone-7\nclone-7\n${identity.machineId}\ngen-7`,
    )
    assert.match(await run('date -u +%Y-%m-%dT%H:%M'), /^2031-05-06T07:0[89]$/)
    assert.match(await run('ip addr show eth0'), /link\/ether 02:00:00:00:00:07[\s\S]*inet 10\.7\.0\.2\/30/)
    assert.match(await run('ip route'), /default via 10\.7\.0\.1 dev eth0/)
    assert.equal(await run('cat /etc/resolv.conf'), 'nameserver 10.7.0.1\nnameserver 1.1.1.1')
    assert.equal(await run('cat /etc/hosts'), '10.0.0.9 printer\n127.0.1.1\tclone-7\t# by tutti')
    assert.equal(await run('cat /root/hooked'), 'gen-7 clone-7')
    assert.equal(await run('cat /etc/ssh/*'), 'new', 'the old host keys are gone')
    assert.equal(await run('echo $TOKEN'), 'secret')
    const newBootId = await run('cat /proc/sys/kernel/random/boot_id')
    assert.match(newBootId, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
    assert.notEqual(newBootId, bootId)
    await channel.identify(
      { ...identity, generation: 'gen-8', hostname: 'clone-8', network: null, fresh: false },
      { signal },
    )
    assert.equal(
      await run('hostname; cat /etc/hosts | grep -c tutti; cat /root/hooked'),
      'clone-8\n1\ngen-7 clone-7\ngen-8 clone-8',
    )
    assert.doesNotMatch(await run('ip addr show eth0; ip route'), /inet 10\.7|default via/)
    await assert.rejects(channel.identify({ ...identity, network: { ...network, address: 'x' } }, { signal }), {
      code: 'unavailable',
      message: /cannot set the guest's address to "x"/,
    })
  })

  test('a full disk keeps no guest from becoming who it is', async () => {
    await run('dd if=/dev/zero of=/root/full bs=1M; dd if=/dev/zero of=/root/fuller bs=1k; sync')
    for (const name of ['full-1', 'full-2']) {
      const machineId = name.at(-1)?.repeat(32) ?? ''
      const rest = { generation: name, entropy: randomBytes(32), now: Date.now(), env: {}, network: null, fresh: false }
      await channel.identify({ ...rest, hostname: name, machineId }, { signal })
      assert.equal(await run('hostname; cat /etc/hostname /etc/machine-id'), `${name}\n${name}\n${machineId}`)
    }
    await run('rm /root/full /root/fuller')
  })

  test('a disk that stands still takes no writes until it is let go', async () => {
    await channel.freeze({ sync: true, signal })
    await assert.rejects(channel.files.write('/root/x', { signal }), { code: 'conflict' })
    await channel.thaw({ signal })
    const writer = await channel.files.write('/root/x', { signal })
    writer.end('y')
    await writer.written
    assert.equal(await run('cat /root/x'), 'y')
  })

  test('files and output go through the port whole, both ways', async () => {
    const bytes = randomBytes(6 * 2 ** 20)
    const writer = await channel.files.write('/root/big', { signal })
    writer.end(bytes)
    await writer.written
    const chunks: Buffer[] = []
    for await (const chunk of await channel.files.read('/root/big', { signal })) chunks.push(chunk)
    assert.ok(Buffer.concat(chunks).equals(bytes))
    const cat = await channel.exec({ command: ['cat'], env: {} }, { signal })
    cat.stdin.end(bytes)
    const back: Buffer[] = []
    for await (const chunk of cat.stdout) back.push(chunk)
    assert.ok(Buffer.concat(back).equals(bytes))
    await channel.files.remove('/root/big', { signal })
  })

  test('a terminal works, and shells have job control in it', async () => {
    const shell = await channel.exec(
      { command: ['sh', '-i'], env: {}, terminal: { columns: 80, rows: 24 } },
      { signal },
    )
    let seen = ''
    shell.stdout.on('data', (chunk) => {
      seen += chunk
    })
    shell.stdin.write('sleep 1000\n')
    while (!/sleep 1000\r\n/.test(seen)) await sleep(20)
    await sleep(200)
    shell.stdin.write('\u0003')
    shell.stdin.write('echo back-$((1+1)); exit 5\n')
    assert.deepEqual(await shell.exited, { code: 5 })
    assert.match(seen, /back-2/)
  })

  test('a new connection to the port finds commands where they were', async () => {
    const script = 'i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done'
    const command = await channel.start({ command: ['sh', '-c', script], env: {} }, { signal })
    const chunks: Buffer[] = []
    command.stdout.on('data', (chunk) => chunks.push(chunk))
    while (chunks.length === 0) await sleep(5)
    for (let round = 0; round < 5; round += 1) {
      await channel.quiesce({ signal })
      await channel[Symbol.asyncDispose]()
      channel = await vm.connect({ token: channel.nextToken })
      const joined = await channel.attach(command.pid, { from: Buffer.concat(chunks).length, signal })
      if (round < 4) {
        joined.stdout.on('data', (chunk) => chunks.push(chunk))
        joined.exited.catch(() => {})
        await sleep(20)
      } else {
        for await (const chunk of joined.stdout) chunks.push(chunk)
        assert.deepEqual(await joined.exited, { code: 0 })
      }
    }
    assert.equal(Buffer.concat(chunks).toString(), Array.from({ length: 3000 }, (_, i) => `line ${i}\n`).join(''))
  })

  test('it can be shrunk, and tells its figures', async () => {
    await channel.shrink({ signal })
    const metrics = await channel.metrics({ signal })
    assert.equal(metrics.cpus, 1)
    assert.ok(metrics.memoryTotal > 80e6 && metrics.memoryTotal < 160 * 2 ** 20, String(metrics.memoryTotal))
    assert.ok(metrics.diskTotal > 30e6 && metrics.cpuMs > 0)
  })

  test('poweroff ends the machine', async () => {
    const ended = new Promise((resolve) => vm.process.once('exit', resolve))
    await channel.exec({ command: ['poweroff'], env: {} }, { signal })
    assert.equal(await ended, 0)
    await channel.closed
  })
})

const other = process.arch === 'x64' ? 'arm64' : 'amd64'
const skipOther = (await lackingForVm(other)) ?? false

test(`a machine with the other architecture, ${other}, works too`, { skip: skipOther }, async () => {
  await using vm = await startGuestVm({ arch: other })
  await using channel = await vm.connect()
  const version = async (terminal?: { columns: number; rows: number }) => {
    const execution = await channel.exec({ command: ['tutti-guest', '--version'], env: {}, terminal }, { signal })
    let out = ''
    for await (const chunk of execution.stdout) out += chunk
    assert.deepEqual(await execution.exited, { code: 0 })
    return out.trim()
  }
  assert.equal(await version(), channel.agentVersion)
  assert.equal(await version({ columns: 80, rows: 24 }), channel.agentVersion)
  await channel.freeze({ sync: true, signal })
  const rest = {
    generation: 'g',
    entropy: randomBytes(32),
    now: Date.now(),
    env: {},
    fresh: true,
    machineId: 'c'.repeat(32),
  }
  const network = { mac: '02:00:00:00:00:09', address: '10.9.0.2', prefix: 24, gateway: '10.9.0.1', nameservers: [] }
  await channel.identify({ ...rest, hostname: 'other', network }, { signal })
  await channel.thaw({ signal })
  const [link] = await channel.files
    .list('/sys/class/net/eth0', { signal })
    .then((all) => all.filter(({ name }) => name === 'address'))
  assert.equal(link?.type, 'file')
  const chunks: Buffer[] = []
  for await (const chunk of await channel.files.read('/etc/hostname', { signal })) chunks.push(chunk)
  assert.equal(Buffer.concat(chunks).toString(), 'other\n')
})
