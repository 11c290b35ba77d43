import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { silentLog } from '../../src/kit/log.ts'
import { systemClock } from '../../src/kit/system-clock.ts'
import { createFirecracker } from '../../src/vmm/firecracker/firecracker.ts'
import { fakeFirecracker } from '../fixtures/fake-firecracker.ts'
import { kernelRoots, lackingForMachines } from '../fixtures/machines.ts'
import { vmmConformance } from './vmm.ts'

const execute = promisify(execFile)
const fake = await fakeFirecracker()

const make = (program: object) => () =>
  createFirecracker({ ...program, kernelRoots, clock: systemClock, log: silentLog })

vmmConformance('firecracker (its API only)', {
  makeVmm: make(fake),
  mapsMemory: false,
  skip: (await lackingForMachines()) ?? (process.getuid?.() === 0 ? undefined : 'not root, for whom /dev/fuse is'),
})

vmmConformance('firecracker', {
  makeVmm: make({}),
  skip: (await lackingForMachines()) ?? (await lackingForProgram()),
})

async function lackingForProgram(): Promise<string | undefined> {
  if (!(await execute('firecracker', ['--version']).catch(() => undefined))) return 'firecracker is not installed'
  const facts = await make({})().facts()
  return facts.healthy ? undefined : facts.reason
}
