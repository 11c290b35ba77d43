import { ProcessDriver, type ProcessOptions } from '../../src/drivers/process/process-driver.ts'
import { systemClock } from '../../src/kit/system-clock.ts'

/** Also run by agents that get killed, which tell by the URL which variant they want. */
const variant = new URL(import.meta.url).hash.slice(1)

const variants: Readonly<Record<string, Partial<ProcessOptions>>> = {
  '': {},
  'no-cgroups': { cgroups: false },
  portable: { system: 'portable' },
}

export function makeDriver(directory: string): ProcessDriver {
  return new ProcessDriver({ directory, clock: systemClock, ...variants[variant] })
}
