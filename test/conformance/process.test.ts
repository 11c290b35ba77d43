import { existsSync } from 'node:fs'
import { driverConformance, shellBehaviours } from './driver.ts'
import type { TaskFragment } from './driver-world.ts'

const shell = (script: string): TaskFragment => ({ driver: 'process', command: ['/bin/sh', '-c', script] })

/** As it is here; without cgroups, as for an agent without root; and the way of macOS, which can be tried on Linux. */
for (const variant of ['', 'no-cgroups', 'portable']) {
  const module = new URL(`./process-driver.ts#${variant}`, import.meta.url).href
  const { makeDriver } = await import(module)
  await driverConformance('process', makeDriver, {
    variant,
    shell,
    behaviours: shellBehaviours(shell),
    missing: { driver: 'process', command: 'no-such-program' },
    inThisProc: process.platform === 'linux',
    module,
    skip: variant === 'portable' && !existsSync('/bin/bash') ? 'there is no /bin/bash' : undefined,
  })
}
