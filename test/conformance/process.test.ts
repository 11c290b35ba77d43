import { driverConformance, shellBehaviours } from './driver.ts'
import type { TaskFragment } from './driver-world.ts'
import { makeDriver } from './process-driver.ts'

const shell = (script: string): TaskFragment => ({ driver: 'process', command: ['/bin/sh', '-c', script] })

await driverConformance('process', makeDriver, {
  shell,
  behaviours: shellBehaviours(shell),
  missing: { driver: 'process', command: 'no-such-program' },
  inThisProc: process.platform === 'linux',
  module: new URL('./process-driver.ts', import.meta.url).href,
})
