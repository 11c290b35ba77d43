import { performance } from 'node:perf_hooks'
import { silentLog } from '../src/kit/log.ts'
import { systemClock } from '../src/kit/system-clock.ts'
import { createQemu } from '../src/vmm/qemu/qemu.ts'
import type { Vm } from '../src/vmm/vmm.ts'
import { kernelRoots, lackingForMachines, Machines, type Snapshot, say } from '../test/fixtures/machines.ts'
import { type Figure, quantile, report, sorted } from './figures.ts'

/** How long a machine takes to its first answer: booted, from a snapshot, from processes that wait. A small guest answers. */

const rounds = Number(process.env['ROUNDS'] ?? 20)
const lacking = await lackingForMachines()
if (lacking === undefined) await measure()
else console.log(`skipped: ${lacking}`)

async function measure(): Promise<void> {
  await using machines = await Machines.open({
    makeVmm: (directory) => createQemu({ directory, kernelRoots, clock: systemClock, log: silentLog }),
  })
  const { accelerator, version } = await machines.vmm.facts()
  console.log(`QEMU ${version}, ${accelerator}, ${machines.shape.memoryMiB} MiB, ${rounds} rounds`)
  const disk = await machines.disk()
  const figures: Figure[] = []
  const add = async (what: string, asked: number | undefined, count: number, round: () => Promise<number>) => {
    const times: number[] = []
    for (let at = 0; at < count; at++) times.push(await round())
    figures.push(...percentiles(what, times, asked))
  }

  await add('boot to first answer', undefined, Math.min(rounds, 5), async () => {
    const begun = performance.now()
    const vm = await machines.boot({ disk })
    await say(vm, 'hello')
    return ended(vm, performance.now() - begun)
  })
  const template = await machines.template('set x')
  await add('snapshot to first answer, no pool', 70, rounds, () => first(machines, template, { disk }))
  await add('… a process waits for any template', 60, rounds, async () => {
    const warm = await settled(machines.warm())
    return first(machines, template, { disk, warm })
  })
  await add('… a process waits on the template', undefined, rounds, async () => {
    const warm = await settled(machines.warm(template.memory))
    return first(machines, template, { disk, warm })
  })
  const running = await machines.start(template, { disk })
  await say(running, 'get')
  await add('… it runs already', undefined, rounds, async () => {
    const begun = performance.now()
    await say(running, 'get')
    return performance.now() - begun
  })
  const stops: number[] = []
  for (let at = 0; at < rounds; at++) {
    const begun = performance.now()
    await running.stop()
    await running.saveDevices(`${machines.directory}/devices`)
    stops.push(performance.now() - begun)
    await running.resume()
    await say(running, 'get')
  }
  figures.push(...percentiles('stop and save the devices', stops, undefined))
  await running.kill()
  report('vmm', figures)
}

async function first(machines: Machines, from: Snapshot, options: Parameters<Machines['start']>[1]): Promise<number> {
  const begun = performance.now()
  const vm = await machines.start(from, options)
  await say(vm, 'get')
  return ended(vm, performance.now() - begun)
}

async function ended(vm: Vm, ms: number): Promise<number> {
  await vm.kill()
  return ms
}

/** A process that waits has been waiting: what it does at its start is not measured. */
async function settled<T>(starting: Promise<T>): Promise<T> {
  const started = await starting
  await systemClock.sleep(100)
  return started
}

function percentiles(what: string, times: readonly number[], asked: number | undefined): Figure[] {
  return [0.5, 0.9, 0.99].map((fraction) => ({
    what: `${what}, p${fraction * 100}`,
    reached: quantile(sorted(times), fraction),
    unit: 'ms',
    ...(asked === undefined || fraction !== 0.5 ? {} : { asked, better: 'less' as const }),
  }))
}
