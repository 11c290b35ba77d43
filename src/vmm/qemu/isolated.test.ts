import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, openSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { chmod, lstat, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import { mountsFor } from '../../../test/fixtures/left.ts'
import {
  kernelRoots,
  lackingForMachines,
  Machines,
  type Snapshot,
  say,
  writeIntoMapping,
} from '../../../test/fixtures/machines.ts'
import { loadLibc } from '../../blocks/memory/libc.ts'
import { findCgroups } from '../../kit/cgroups.ts'
import { silentLog } from '../../kit/log.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { findBuilt } from '../built.ts'
import { openIsolation } from '../isolation/isolation.ts'
import { checkOwnUser } from '../isolation/testing.ts'
import type { Vm } from '../vmm.ts'
import { createQemu } from './qemu.ts'

const execute = promisify(execFile)
const opened = openIsolation({ clock: systemClock })
const lacking = (await lackingForMachines()) ?? ('lacking' in opened ? opened.lacking : undefined)

describe(`a VMM of its own user${lacking ? `: skipped, ${lacking}` : ''}`, lacking ? { skip: lacking } : {}, () => {
  let machines: Machines
  let template: Snapshot
  const groups = findCgroups()
  const makeVmm = (directory: string) => createQemu({ clock: systemClock, log: silentLog, directory, kernelRoots })

  before(async () => {
    machines = await Machines.open({ makeVmm })
    template = await machines.template('set kept')
  })
  after(() => machines?.[Symbol.asyncDispose]())

  test('has no capabilities, gains none, and is nobody else', async () => {
    const [a, b] = [await machines.start(template), await machines.start(template)]
    const booted = await machines.boot()
    const uids = [a, b, booted].map(({ pid }) => userOf(pid))
    assert.equal(new Set(uids).size, 3)
    for (const { pid } of [a, b, booted]) {
      const { status } = checkOwnUser(pid)
      assert.match(status, /^Seccomp:\t2$/m)
    }
    for (const vm of [a, b, booted]) await vm.kill()
  })

  test('is in a group with its limits, which goes when it goes', async (t) => {
    if (groups.version === 'none') return t.skip(groups.lacking)
    const vm = await machines.start(template)
    const name = `vm.${userOf(vm.pid)}`
    assert.deepEqual(groups.processes(name), [vm.pid])
    // The first of a build pays for pages of the build's memory as well as for its own.
    assert.deepEqual(limitsOf(name), { memory: (2 * 96 + 256) * 2 ** 20, pids: 129 })
    await vm.kill()
    const booted = await machines.boot()
    assert.deepEqual(limitsOf(`vm.${userOf(booted.pid)}`), { memory: (96 + 256) * 2 ** 20, pids: 129 })
    await booted.kill()
    assert.equal(existsSync(groups.doors(name)[0] ?? ''), false)
  })

  test('that takes more memory than its group may is ended alone, and the reason says so', async (t) => {
    if (groups.version === 'none') return t.skip(groups.lacking)
    const [vm, other] = [await machines.start(template), await machines.start(template)]
    const name = `vm.${userOf(vm.pid)}`
    const taken = groups.usage(name)?.memory ?? 0
    const limit = [`tutti/${name}/memory.max`, `memory/tutti/${name}/memory.limit_in_bytes`]
      .map((path) => join('/sys/fs/cgroup', path))
      .find((path) => existsSync(path))
    await writeFile(limit ?? '', String(taken + (4 << 20)))
    await writeIntoMapping(vm.pid, template.memory, 0, Buffer.alloc(48 << 20, 1)).catch(() => {})
    assert.match((await vm.exited).reason, /SIGKILL: its VMM took more memory than was set aside for it/)
    assert.equal(await say(other, 'get'), 'kept')
    await Promise.all([vm.kill(), other.kill()])
  })

  test('has no network but an empty one', async () => {
    const vm = await machines.start(template)
    const networks = [vm.pid, process.pid].map((pid) => readlinkSync(`/proc/${pid}/ns/net`))
    assert.notEqual(networks[0], networks[1])
    const { stdout } = await execute('nsenter', [`--net=/proc/${vm.pid}/ns/net`, 'cat', '/proc/net/dev'])
    assert.deepEqual(
      stdout
        .split('\n')
        .slice(2)
        .filter(Boolean)
        .map((line) => line.trim().split(':')[0]),
      ['lo'],
    )
    assert.equal(readlinkSync('/proc/self/ns/net'), networks[1])
    await vm.kill()
  })

  test('has a file system with what QEMU needs and nothing else', async (t) => {
    if (findBuilt('enclose') === undefined) return t.skip('native/build was not run')
    const waited = await machines.warm()
    const vms = [
      await machines.start(template),
      await machines.start(template, { warm: waited }),
      await machines.boot(),
    ]
    for (const { pid } of vms) {
      const root = `/proc/${pid}/root`
      const allowed = ['bin', 'dev', 'etc', 'lib', 'lib32', 'lib64', 'machine', 'proc', 'usr']
      assert.deepEqual(
        readdirSync(root).filter((name) => !allowed.includes(name)),
        [],
      )
      assert.deepEqual(readdirSync(`${root}/etc`), ['ld.so.cache'])
      assert.deepEqual(readdirSync(`${root}/usr/bin`), ['qemu-system-x86_64'])
      assert.deepEqual(
        readdirSync(`${root}/dev`).filter((name) => !['null', 'urandom', 'kvm'].includes(name)),
        [],
      )
      assert.equal(readlinkSync(`/proc/${pid}/cwd`), '/machine')
      assert.match(readFileSync(`/proc/${pid}/mountinfo`, 'utf8'), / \/proc .*hidepid=invisible,subset=pid/)
      // From no directory that it has open is there a way to another.
      const directories = readdirSync(`/proc/${pid}/fd`)
        .map((name) => `/proc/${pid}/fd/${name}`)
        .filter((path) => statSync(path, { throwIfNoEntry: false })?.isDirectory())
      assert.ok(directories.length > 0, 'that of the disk')
      for (const path of directories) assert.equal(statSync(`${path}/..`).ino, statSync(path).ino)
    }
    assert.deepEqual(mountsFor(machines.directory), [])
    for (const vm of vms) await vm.kill()
  })

  test('can make and replace nothing in its directory, and reach no other', async () => {
    const [a, b] = [await machines.start(template), await machines.start(template)]
    const uid = userOf(a.pid)
    const own = statSync(a.directory)
    assert.deepEqual({ uid: own.uid, mode: own.mode & 0o777 }, { uid: 0, mode: 0o711 })
    for (const name of readdirSync(a.directory)) {
      const { uid: owner, mode } = await lstat(join(a.directory, name))
      assert.ok(owner === 0 || (name === 'console.log' && owner === uid), `${name} is of ${owner}`)
      if (name !== 'console.log') assert.equal(mode & 0o022, 0, name)
    }
    await fails(uid, 'touch', join(a.directory, 'new'))
    await fails(uid, 'cat', join(b.directory, 'console.log'))
    await fails(uid, 'cat', `/proc/${b.pid}/environ`)
    await fails(uid, 'ls', `/proc/${b.pid}/fd`)
    await fails(uid, 'ls', machines.directory)
    await fails(uid, 'kill', '-0', String(b.pid))
    await Promise.all([a.kill(), b.kill()])
  })

  test('cannot write the memory that it shares with others, which is whole afterwards', async () => {
    const before = await readFile(template.memory)
    const vm = await machines.start(template)
    assert.equal(await say(vm, 'set of the clone'), 'ok')
    const fd = readdirSync(`/proc/${vm.pid}/fd`).find((name) => {
      const found = statSync(`/proc/${vm.pid}/fd/${name}`, { throwIfNoEntry: false })
      return found?.ino === statSync(template.memory).ino
    })
    assert.ok(fd, 'it has the memory open')
    const inherited = openSync(template.memory, 'r+')
    const script = 'printf x >/proc/self/fd/3 && exit 1; exec 4<>/proc/self/fd/3 && ! printf x >&4'
    const writer = spawn('sh', ['-c', script], {
      ...{ uid: userOf(vm.pid), gid: userOf(vm.pid), stdio: ['ignore', 'ignore', 'ignore', inherited] },
    })
    assert.equal((await once(writer, 'exit'))[0], 0)
    assert.ok(before.equals(await readFile(template.memory)))
    await vm.kill()
  })

  test('is not given memory that it could write', async (t) => {
    const libc = loadLibc()
    if (libc === undefined) return t.skip('no files in memory here')
    const memory = await machines.memory()
    await assert.rejects(machines.start({ ...template, memory }), /is not sealed/)
    const warm = await machines.warm()
    await assert.rejects(machines.start({ ...template, memory }, { warm }), /is not sealed/)
  })

  test('what it saves lies where it was asked for, again and again', async () => {
    const vm = await machines.start(template)
    for (const name of ['first', 'second']) {
      const file = join(machines.directory, name)
      await vm.stop()
      await vm.saveDevices(file)
      await vm.resume()
      assert.ok(statSync(file).size > 10_000)
    }
    assert.equal(await say(vm, 'get'), 'kept')
    await vm.kill()
  })

  test('a server of disks that comes back is found again', async () => {
    const { socket, restart } = await ownDisk()
    const vm = await machines.start(template, { disk: { socket } })
    assert.equal(await say(vm, 'write before'), 'ok')
    await restart()
    assert.equal(await say(vm, 'write after'), 'ok')
    assert.equal(await say(vm, 'read'), 'after')
    await vm.kill()
  })

  test('what an agent left is ended by the next, with its group, note or no note', async (t) => {
    if (groups.version === 'none') return t.skip(groups.lacking)
    for (const hasNote of [true, false]) {
      const vm = await machines.start(template)
      const name = `vm.${userOf(vm.pid)}`
      await vm[Symbol.asyncDispose]()
      if (!hasNote) await rm(join(vm.directory, 'vm.json'))
      await makeVmm(machines.directory).remove(vm.directory)
      assert.equal(statSync(`/proc/${vm.pid}`, { throwIfNoEntry: false }), undefined)
      assert.ok(!groups.list('vm.').includes(name))
    }
  })

  test('a group that was made for nobody goes with the next agent', async (t) => {
    if (groups.version === 'none') return t.skip(groups.lacking)
    groups.make('vm.1999999999', { memory: 0, cores: 1, pids: 1 })
    const vm = await makeVmm(machines.directory)
    await vm.remove(join(machines.directory, 'nowhere'))
    assert.ok(!groups.list('vm.').includes('vm.1999999999'))
  })

  test('takes the agent’s user where it is told to', async () => {
    const vmm = createQemu({
      ...{ clock: systemClock, log: silentLog, directory: machines.directory, kernelRoots, isolate: false },
    })
    const vm = await vmm.restore({
      ...{ directory: await machines.place(), machine: machines.shape, network: { kind: 'none' as const } },
      ...{ memory: { path: template.memory }, devices: template.devices, disk: await machines.disk() },
      signal: AbortSignal.timeout(30_000),
    })
    assert.equal(userOf(vm.pid), process.getuid?.())
    await vm.resume()
    assert.equal(await say(vm, 'get'), 'kept')
    await vm.kill()
  })

  /** As the machines' own disks, and can be ended and begun again. */
  async function ownDisk() {
    const directory = await mkdtemp(join(tmpdir(), 'tutti-disk-'))
    await chmod(directory, 0o711)
    const [file, socket] = [join(directory, 'image'), join(directory, 's')]
    await writeFile(file, Buffer.alloc(4 << 20))
    const start = async () => {
      const server = spawn('qemu-nbd', ['--socket', socket, '--format', 'raw', '--persistent', file], {
        stdio: 'ignore',
      })
      while (!existsSync(socket)) await systemClock.sleep(5)
      await chmod(socket, 0o666)
      return server
    }
    let server = await start()
    after(async () => {
      server.kill('SIGKILL')
      await rm(directory, { recursive: true })
    })
    return {
      socket,
      restart: async () => {
        server.kill('SIGKILL')
        await once(server, 'exit')
        await rm(socket)
        server = await start()
      },
    }
  }
})

function userOf(pid: Vm['pid']): number {
  return statSync(`/proc/${pid}`).uid
}

async function fails(uid: number, program: string, ...args: string[]): Promise<void> {
  await assert.rejects(execute(program, args, { uid, gid: uid, cwd: '/' }), `${program} ${args.join(' ')}`)
}

function limitsOf(name: string): { memory: number; pids: number } {
  const base = '/sys/fs/cgroup'
  const number = (...paths: string[]) => {
    const found = paths.map((path) => join(base, path)).find((path) => existsSync(path))
    return Number(readFileSync(found ?? '', 'utf8'))
  }
  return {
    memory: number(`tutti/${name}/memory.max`, `memory/tutti/${name}/memory.limit_in_bytes`),
    pids: number(`tutti/${name}/pids.max`, `pids/tutti/${name}/pids.max`),
  }
}
