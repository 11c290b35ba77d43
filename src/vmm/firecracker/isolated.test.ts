import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { lstatSync, readdirSync, readlinkSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { fakeFirecracker } from '../../../test/fixtures/fake-firecracker.ts'
import { mountsFor } from '../../../test/fixtures/left.ts'
import {
  echoGuest,
  kernelRoots,
  lackingForMachines,
  Machines,
  type Snapshot,
  say,
} from '../../../test/fixtures/machines.ts'
import { findCgroups } from '../../kit/cgroups.ts'
import { silentLog } from '../../kit/log.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { findBuilt } from '../built.ts'
import { openIsolation } from '../isolation/isolation.ts'
import { checkOwnUser } from '../isolation/testing.ts'
import { createFirecracker } from './firecracker.ts'

const execute = promisify(execFile)
const opened = openIsolation({ clock: systemClock })
const fake = await fakeFirecracker()
const lacking =
  (await lackingForMachines()) ??
  ('lacking' in opened ? opened.lacking : undefined) ??
  (findBuilt('enclose') ? undefined : 'native/build was not run')

describe(`a Firecracker of its own user${lacking ? `: skipped, ${lacking}` : ''}`, { skip: lacking ?? false }, () => {
  let machines: Machines
  let template: Snapshot
  const groups = findCgroups()
  const makeVmm = () => createFirecracker({ ...fake, kernelRoots, clock: systemClock, log: silentLog })

  before(async () => {
    machines = await Machines.open({ makeVmm })
    template = await machines.template('set kept')
  })
  after(() => machines?.[Symbol.asyncDispose]())

  test('has no capabilities, gains none, and is nobody else', async () => {
    const vms = [await machines.start(template), await machines.start(template), await machines.boot()]
    assert.equal(new Set(vms.map(({ pid }) => statSync(`/proc/${pid}`).uid)).size, 3)
    for (const { pid } of vms) {
      const { uid } = checkOwnUser(pid)
      if (groups.version !== 'none') assert.deepEqual(groups.processes(`vm.${uid}`), [pid])
    }
    for (const vm of vms) await vm.kill()
  })

  test('has a file system with what it needs, and its disk', async () => {
    const vm = await machines.start(template)
    const root = `/proc/${vm.pid}/root`
    assert.deepEqual(
      readdirSync(`${root}/dev`).filter((name) => !['kvm', 'net', 'null', 'urandom'].includes(name)),
      [],
    )
    assert.deepEqual(readdirSync(`${root}/etc`), ['ld.so.cache'])
    for (const name of ['home', 'root', 'var', 'sys', 'run', 'boot'])
      assert.equal(statSync(join(root, name), { throwIfNoEntry: false }), undefined, name)
    assert.equal(readlinkSync(`/proc/${vm.pid}/cwd`), '/machine')
    assert.equal(statSync(join(root, 'machine/disk')).size, 4 << 20)
    assert.equal(await say(vm, 'write something'), 'ok')
    assert.equal(await say(vm, 'read'), 'something')
    assert.notEqual(readlinkSync(`/proc/${vm.pid}/ns/net`), readlinkSync('/proc/self/ns/net'))
    await vm.kill()
  })

  test('can make and replace nothing in its directory once there is a guest', async () => {
    for (const vm of [await machines.start(template), await machines.boot()]) {
      const { uid, mode } = statSync(vm.directory)
      assert.deepEqual({ uid, mode: mode & 0o777 }, { uid: 0, mode: 0o711 })
      for (const name of readdirSync(vm.directory))
        assert.ok(!lstatSync(join(vm.directory, name)).isSymbolicLink(), name)
      await vm.kill()
    }
  })

  test('what it saves lies where it was asked for, and is no longer its own', async () => {
    const vm = await machines.start(template)
    const file = join(machines.directory, 'saved')
    for (let again = 0; again < 2; again++) {
      await vm.stop()
      await vm.saveDevices(file)
      await vm.resume()
      assert.equal(statSync(file).uid, 0)
    }
    await vm.kill()
  })

  test('runs where its tap is, which is its own', async () => {
    const [namespace, device] = [`tutti-fc-${process.pid}`, 'tap0']
    await execute('ip', ['netns', 'add', namespace])
    try {
      await execute('ip', ['-n', namespace, 'tuntap', 'add', device, 'mode', 'tap'])
      const vm = await machines.vmm.boot({
        ...(await echoGuest(machines.directory, machines.shape.arch)),
        ...{ directory: await machines.place(), machine: machines.shape, disk: await machines.disk() },
        memory: { path: await machines.memory() },
        network: { kind: 'tap', device, namespace },
        signal: AbortSignal.timeout(30_000),
      })
      assert.equal(statSync(`/proc/${vm.pid}/ns/net`).ino, statSync(`/run/netns/${namespace}`).ino)
      const { stdout } = await execute('ip', ['netns', 'exec', namespace, 'cat', `/sys/class/net/${device}/owner`])
      assert.equal(Number(stdout), statSync(`/proc/${vm.pid}`).uid)
      await vm.kill()
    } finally {
      await execute('ip', ['netns', 'del', namespace])
    }
  })

  test('what an agent left is ended by the next, note or no note, and no mount stays', async () => {
    for (const hasNote of [true, false]) {
      const vm = await machines.start(template)
      const { uid } = statSync(`/proc/${vm.pid}`)
      await vm[Symbol.asyncDispose]()
      if (!hasNote) rmSync(join(vm.directory, 'vm.json'))
      await makeVmm().remove(vm.directory)
      assert.equal(statSync(`/proc/${vm.pid}`, { throwIfNoEntry: false }), undefined)
      assert.ok(!groups.list('vm.').includes(`vm.${uid}`))
    }
    assert.deepEqual(mountsFor(machines.directory), [])
  })
})
