import assert from 'node:assert/strict'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault } from '../../src/model/fault.ts'
import { isAlive, markOf } from '../../src/vmm/process-mark.ts'
import type { Vm, WarmVm } from '../../src/vmm/vmm.ts'
import { Machines, type MachinesOptions, type Snapshot, say, until, writeIntoMapping } from '../fixtures/machines.ts'

export interface VmmConformanceOptions extends MachinesOptions {
  /** Why none of it can run here. */
  skip?: string | undefined
  /** False: what runs is not a process that maps memory. */
  mapsMemory?: boolean
}

/** What every VMM promises, as a test suite. Two machines at most live at a time. */
export function vmmConformance(name: string, options: VmmConformanceOptions): void {
  const { makeVmm, skip, mapsMemory = true } = options
  if (skip !== undefined) {
    test(`VMM ${name}: skipped, ${skip}`, { skip }, () => {})
    return
  }
  describe(`VMM ${name}`, () => {
    let machines: Machines
    let template: Snapshot
    before(async () => {
      machines = await Machines.open(options)
      template = await machines.template('hello', 'set of the template')
    })
    after(() => machines?.[Symbol.asyncDispose]())

    const isTaken = async (warm: WarmVm, vm: Vm) => {
      const { can } = await machines.vmm.facts()
      if (can.warm) assert.equal(vm.pid, warm.pid)
      else assert.equal(isThere(warm.pid), false)
    }

    test('says what it can do here, and what a snapshot must agree with', async () => {
      const facts = await machines.vmm.facts()
      assert.equal(facts.healthy, true)
      assert.match(facts.compat, new RegExp(`^${machines.vmm.name} .*${facts.accelerator}`))
      assert.ok(facts.can.networks.includes('none'))
      assert.deepEqual(await machines.vmm.facts(), facts)
    })

    test('a machine boots, answers on its channel, and its console can be read', async () => {
      const vm = await machines.boot()
      assert.equal(await say(vm, 'hello'), 'hello')
      await until(
        async () => (await readFile(vm.console, 'utf8')).includes('guest says hello'),
        'the console says hello',
      )
      await vm.kill()
    })

    test('clones of one snapshot see neither each other’s memory nor each other’s disk', async () => {
      const [a, b] = [await machines.start(template), await machines.start(template)]
      assert.equal(await say(a, 'get'), 'of the template')
      assert.equal(await say(a, 'set of a'), 'ok')
      assert.equal(await say(a, 'write disk of a'), 'ok')
      assert.equal(await say(b, 'get'), 'of the template')
      assert.equal(await say(b, 'read'), '')
      assert.equal(await say(a, 'get'), 'of a')
      assert.equal(await say(a, 'read'), 'disk of a')
      await Promise.all([a.kill(), b.kill()])
      const c = await machines.start(template)
      assert.equal(await say(c, 'get'), 'of the template')
      await c.kill()
    })

    test('a process that waits for any template takes this one', async () => {
      const warm = await machines.warm()
      assert.equal(warm.memory, undefined)
      const vm = await machines.start(template, { warm })
      await isTaken(warm, vm)
      assert.equal(await say(vm, 'get'), 'of the template')
      await vm.kill()
    })

    test('a process that waits on a template takes it', async () => {
      const warm = await machines.warm(template.memory)
      const vm = await machines.start(template, { warm })
      await isTaken(warm, vm)
      assert.equal(await say(vm, 'get'), 'of the template')
      await vm.kill()
    })

    test('a process that waits is ended by letting go of it', async () => {
      const warm = await machines.warm()
      await warm[Symbol.asyncDispose]()
      await warm.exited
      assert.equal(isThere(warm.pid), false)
    })

    test('no device state lies beside a machine that was resumed from it', async () => {
      const vm = await machines.start(template)
      assert.deepEqual(
        (await readdir(vm.directory)).filter((name) => name.startsWith('devices')),
        [],
      )
      await vm.kill()
    })

    test('a stopped machine stands still, and goes on where it was', async () => {
      const vm = await machines.start(template)
      await vm.stop()
      const answer = say(vm, 'hello')
      const first = await Promise.race([answer, sleep(200, 'nothing')])
      assert.equal(first, 'nothing')
      await vm.resume()
      assert.equal(await answer, 'hello')
      await vm.kill()
    })

    test('the devices of a clone can be saved, and the clone goes on', async () => {
      const vm = await machines.start(template)
      const file = join(machines.directory, 'devices')
      await vm.stop()
      await vm.saveDevices(file)
      assert.ok((await readFile(file)).length > 0)
      await vm.resume()
      assert.equal(await say(vm, 'get'), 'of the template')
      await vm.kill()
    })

    test('changed pages can be put in place before the devices are loaded', { skip: !mapsMemory }, async () => {
      const original = await readFile(template.memory)
      const places: number[] = []
      for (let at = original.indexOf('of the template'); at >= 0; at = original.indexOf('of the template', at + 1))
        places.push(at)
      assert.ok(places.length > 0)
      const beforeLoad = async (pid: number) => {
        for (const at of places) await writeIntoMapping(pid, template.memory, at, Buffer.from('of THE'))
      }
      const vm = await machines.start(template, { beforeLoad })
      assert.equal(await say(vm, 'get'), 'of THE template')
      await vm.kill()
      assert.ok(original.equals(await readFile(template.memory)), 'the file is as it was')
    })

    test('a machine outlives its agent, and is found by the next one', async () => {
      const vm = await machines.start(template)
      assert.equal(await say(vm, 'set before'), 'ok')
      await vm[Symbol.asyncDispose]()
      const next = makeVmm(machines.directory)
      const found = await next.adopt(vm.directory)
      assert.ok(found)
      assert.equal(found.pid, vm.pid)
      assert.equal(await say(found, 'get'), 'before')
      await found.stop()
      await found.resume()
      assert.equal(await say(found, 'get'), 'before')
      process.kill(found.pid, 'SIGKILL')
      await withinASecond(found.exited)
      assert.equal(await next.adopt(vm.directory), undefined)
    })

    test('the death of a machine is seen within a second', async () => {
      const vm = await machines.start(template)
      process.kill(vm.pid, 'SIGKILL')
      const { reason } = await withinASecond(vm.exited)
      assert.match(reason, /SIGKILL/)
      await assert.rejects(vm.stop(), isFault('unavailable'))
    })

    test('a guest that shuts itself down has ended, with the reason', async () => {
      const vm = await machines.start(template)
      say(vm, 'off').catch(() => {})
      assert.match((await vm.exited).reason, /guest/)
    })

    test('what is left in a directory is ended, again and again', async () => {
      const vm = await machines.start(template)
      await vm[Symbol.asyncDispose]()
      await machines.vmm.remove(vm.directory)
      assert.equal(isThere(vm.pid), false)
      await machines.vmm.remove(vm.directory)
      assert.equal(await machines.vmm.adopt(vm.directory), undefined)
    })

    test('a snapshot of another size is refused with a sentence', async () => {
      await assert.rejects(machines.start(template, { machine: { memoryMiB: 128 } }), (error) => {
        assert.ok(error instanceof Fault)
        assert.match(error.message, /96 MiB of memory .* 128/)
        return error.code === 'invalid'
      })
    })

    test('what is no device state is refused with a sentence, and nothing is left running', async () => {
      const devices = join(machines.directory, 'nonsense')
      await writeFile(devices, 'this is no device state, whatever its name says')
      let pid = 0
      const beforeLoad = async (started: number) => {
        pid = started
      }
      await assert.rejects(machines.start({ ...template, devices }, { beforeLoad }), (error) => {
        assert.ok(error instanceof Fault)
        assert.match(error.message, /does not take this snapshot: .+/)
        return error.code === 'invalid'
      })
      assert.equal(isThere(pid), false)
    })

    test('a cancelled start leaves nothing running', async () => {
      const directory = await machines.place()
      const signal = AbortSignal.timeout(20)
      const starting = machines.vmm.restore({
        ...{ directory, signal, machine: machines.shape, network: { kind: 'none' } },
        ...{ memory: { path: template.memory }, devices: template.devices, disk: await machines.disk() },
        beforeLoad: () => new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
      })
      await assert.rejects(starting)
      assert.equal(await machines.vmm.adopt(directory), undefined)
    })
  })
}

async function withinASecond<T>(work: Promise<T>): Promise<T> {
  const late = new AbortController()
  const timer = setTimeout(() => late.abort(new Error('it took more than a second')), 1000)
  try {
    return await Promise.race([
      work,
      new Promise<never>((_, reject) => late.signal.addEventListener('abort', () => reject(late.signal.reason))),
    ])
  } finally {
    clearTimeout(timer)
  }
}

function isFault(code: string) {
  return (error: unknown) => error instanceof Fault && error.code === code
}

function isThere(pid: number): boolean {
  const mark = markOf(pid)
  return mark !== undefined && isAlive(mark)
}
