import { silentLog } from '../../src/kit/log.ts'
import { systemClock } from '../../src/kit/system-clock.ts'
import { createQemu } from '../../src/vmm/qemu/qemu.ts'
import { kernelRoots, lackingForMachines } from '../fixtures/machines.ts'
import { vmmConformance } from './vmm.ts'

vmmConformance('qemu', {
  makeVmm: (directory) => createQemu({ directory, kernelRoots, clock: systemClock, log: silentLog }),
  skip: await lackingForMachines(),
})
