import { silentLog } from '../../src/kit/log.ts'
import { systemClock } from '../../src/kit/system-clock.ts'
import { createQemu } from '../../src/vmm/qemu/qemu.ts'
import { kernelRoots, lackingForMachines, ownArch } from '../fixtures/machines.ts'
import { vmmConformance } from './vmm.ts'

vmmConformance('qemu', {
  makeVmm: (directory) => createQemu({ directory, kernelRoots, clock: systemClock, log: silentLog }),
  skip: await lackingForMachines(),
})

const otherArch = ownArch === 'amd64' ? 'arm64' : 'amd64'
vmmConformance(`qemu (${otherArch}, emulated)`, {
  makeVmm: (directory) => createQemu({ directory, kernelRoots, arch: otherArch, clock: systemClock, log: silentLog }),
  arch: otherArch,
  skip: await lackingForMachines(otherArch),
})
