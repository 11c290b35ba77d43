import { ProcessDriver } from '../../src/drivers/process/process-driver.ts'
import { systemClock } from '../../src/kit/system-clock.ts'

/** Also run by agents that get killed. */
export function makeDriver(directory: string): ProcessDriver {
  return new ProcessDriver({ directory, clock: systemClock })
}
