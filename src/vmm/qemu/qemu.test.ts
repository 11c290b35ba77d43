import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { kernelRoots, lackingForMachines, Machines, type Snapshot, say } from '../../../test/fixtures/machines.ts'
import { silentLog } from '../../kit/log.ts'
import { systemClock } from '../../kit/system-clock.ts'
import type { NetworkBackend } from '../vmm.ts'
import { createQemu } from './qemu.ts'

const execute = promisify(execFile)
const tools = { clock: systemClock, log: silentLog }
const lacking = await lackingForMachines()

test('without QEMU it says so, and what to install', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-empty-'))
  const path = process.env['PATH']
  process.env['PATH'] = directory
  try {
    const facts = await createQemu({ ...tools, arch: 'amd64' }).facts()
    assert.equal(facts.healthy, false)
    assert.equal(facts.reason, 'qemu-system-x86_64 is not installed')
    assert.equal(facts.remedy, 'install qemu-system-x86')
  } finally {
    process.env['PATH'] = path
    await rm(directory, { recursive: true })
  }
})

const skip = lacking === undefined ? {} : { skip: lacking }

test(`without a kernel it says so, and what to do${lacking ? `: skipped, ${lacking}` : ''}`, skip, async () => {
  const vmm = createQemu({ ...tools, kernel: '/nowhere/vmlinuz' })
  const { healthy, reason, remedy } = await vmm.facts()
  assert.equal(healthy, false)
  assert.equal(reason, 'there is no kernel at /nowhere/vmlinuz')
  assert.match(remedy ?? '', /tools\/kernel/)
  const place = { directory: '/nowhere', signal: AbortSignal.timeout(1000) }
  const machine = { arch: process.arch === 'arm64' ? 'arm64' : 'amd64', cpus: 1, memoryMiB: 64 } as const
  await assert.rejects(vmm.warm({ ...place, machine }), /there is no kernel at .*; .*tools\/kernel/)
})

test(`what does not boot is not a kernel${lacking ? `: skipped, ${lacking}` : ''}`, skip, async () => {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-kernel-'))
  const kernel = join(directory, 'vmlinuz')
  try {
    await writeFile(kernel, Buffer.alloc(10_000, 'x'))
    const { healthy, reason } = await createQemu({ ...tools, kernel, emulate: true }).facts()
    assert.equal(healthy, false)
    assert.equal(reason, `QEMU cannot boot the kernel ${kernel}`)
  } finally {
    await rm(directory, { recursive: true })
  }
})

describe(`a snapshot of a machine without a network${lacking ? `: skipped, ${lacking}` : ''}`, skip, () => {
  let machines: Machines
  let template: Snapshot
  before(async () => {
    machines = await Machines.open({ makeVmm: (directory) => createQemu({ ...tools, directory, kernelRoots }) })
    template = await machines.template('set kept')
  })
  after(() => machines?.[Symbol.asyncDispose]())

  /** From a new process, and from one that waited. */
  async function takes(network: NetworkBackend): Promise<void> {
    for (const waits of [false, true]) {
      const place = { directory: await machines.place(), machine: machines.shape, signal: AbortSignal.timeout(30_000) }
      const warm = waits ? await machines.vmm.warm({ ...place, network }) : undefined
      const vm = await machines.vmm.restore({
        ...{ ...place, network, disk: await machines.disk(), devices: template.devices },
        memory: { path: template.memory },
        ...(warm === undefined ? {} : { warm }),
      })
      if (warm) assert.equal(vm.pid, warm.pid)
      await vm.resume()
      assert.equal(await say(vm, 'get'), 'kept')
      assert.equal(await say(vm, 'net'), '52:54:00:00:00:01')
      await vm.kill()
    }
  }

  test('takes a user-mode network', async (t) => {
    if (!(await machines.vmm.facts()).can.networks.includes('user')) return t.skip('this QEMU has none')
    await takes({ kind: 'user', restrict: true })
  })

  test('takes a tap device in a namespace', async (t) => {
    if (!(await machines.vmm.facts()).can.networks.includes('tap')) return t.skip('not root, or no /dev/net/tun')
    const namespace = `tutti-vm-${process.pid}`
    await execute('ip', ['netns', 'add', namespace])
    try {
      await execute('ip', ['-n', namespace, 'tuntap', 'add', 'dev', 'tap0', 'mode', 'tap'])
      await takes({ kind: 'tap', device: 'tap0', namespace })
    } finally {
      await execute('ip', ['netns', 'delete', namespace])
    }
  })

  test('and on a user-mode network is not taken by a machine without, with the reason', async (t) => {
    if (!(await machines.vmm.facts()).can.networks.includes('user')) return t.skip('this QEMU has none')
    const place = { machine: machines.shape, signal: AbortSignal.timeout(30_000), memory: { path: template.memory } }
    const network = { kind: 'user', restrict: true } as const
    const disk = await machines.disk()
    const first = { ...place, disk, network, directory: await machines.place(), devices: template.devices }
    const vm = await machines.vmm.restore(first)
    const devices = join(machines.directory, 'with-user-network')
    await vm.saveDevices(devices)
    await vm.kill()
    const second = { ...first, devices, directory: await machines.place() }
    await assert.rejects(machines.vmm.restore({ ...second, network: { kind: 'none' } }), /slirp/)
    const again = await machines.vmm.restore({ ...second, directory: await machines.place() })
    await again.kill()
  })
})

describe(`a QEMU that cannot leave memory out${lacking ? `: skipped, ${lacking}` : ''}`, skip, () => {
  let machines: Machines
  let template: Snapshot
  before(async () => {
    const makeVmm = (directory: string) => createQemu({ ...tools, directory, kernelRoots, saving: 'whole' })
    machines = await Machines.open({ makeVmm })
    template = await machines.template('set kept')
  })
  after(() => machines?.[Symbol.asyncDispose]())

  test('says so, and saves of a machine that booted the devices alone', async () => {
    const { can } = await machines.vmm.facts()
    assert.deepEqual(
      { ...can, networks: [] },
      {
        saveDevices: false,
        savesMemory: true,
        networks: [],
        networkLater: true,
        warm: true,
        liveSnapshot: true,
        layeredMemory: false,
      },
    )
    assert.ok((await stat(template.devices)).size < 2 ** 20)
  })

  test('saves a clone with its memory, which goes on, and comes back over the template’s memory alone', async () => {
    const vm = await machines.start(template)
    for (const word of ['first', 'second']) {
      assert.equal(await say(vm, `set ${word}`), 'ok')
      const devices = join(machines.directory, word)
      await vm.stop()
      await vm.saveDevices(devices)
      await vm.resume()
      assert.equal(await say(vm, 'set later'), 'ok')
      assert.ok((await stat(devices)).size > 10 * 2 ** 20)
      const warm = word === 'first' ? await machines.warm() : await machines.warm(template.memory)
      const copy = await machines.start({ ...template, devices }, { warm })
      assert.equal(await say(copy, 'get'), word)
      await copy.kill()
    }
    await vm.kill()
  })
})
