import { FakeDriver } from '../../src/drivers/fake/fake-driver.ts'
import { FakeMachine } from '../../src/drivers/fake/fake-machine.ts'
import { systemClock } from '../../src/kit/system-clock.ts'
import { driverConformance } from './driver.ts'
import type { TaskFragment } from './driver-world.ts'

/** Machines by the directory of their driver: what is on disk elsewhere. */
const machines = new Map<string, FakeMachine>()

function makeDriver(directory: string): FakeDriver {
  const machine = machines.get(directory) ?? new FakeMachine({ clock: systemClock })
  machines.set(directory, machine)
  return new FakeDriver({ machine, clock: systemClock })
}

const fake = (config: Record<string, unknown>): TaskFragment => ({ driver: 'fake', config })

await driverConformance('fake', makeDriver, {
  behaviours: {
    exits: (code) => fake({ runMs: 1, exitCode: code }),
    waits: () => fake({ output: 'up\n' }),
    stubborn: () => fake({ output: 'up\n', ignoreSignals: true }),
    says: (text) => fake({ output: `${text}\n`, runMs: 1 }),
  },
  missing: fake({ failStart: 'the program "no-such-program" was not found' }),
})
