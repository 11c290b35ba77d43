import { execFile } from 'node:child_process'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { promisify } from 'node:util'
import { silentLog } from '../../src/kit/log.ts'
import { systemClock } from '../../src/kit/system-clock.ts'
import { createFirecracker } from '../../src/vmm/firecracker/firecracker.ts'
import { kernelRoots, lackingForMachines } from '../fixtures/machines.ts'
import { vmmConformance } from './vmm.ts'

const execute = promisify(execFile)
const directory = await mkdtemp(join(tmpdir(), 'tutti-fake-fc-'))
after(() => rm(directory, { recursive: true, force: true }))

const fake = join(directory, 'firecracker')
const script = new URL('../fixtures/firecracker.ts', import.meta.url).pathname
await writeFile(fake, `#!/bin/sh\nexec '${process.execPath}' --disable-warning=ExperimentalWarning '${script}' "$@"\n`)
await chmod(fake, 0o755)

const make = (program: string) => () => createFirecracker({ program, kernelRoots, clock: systemClock, log: silentLog })

vmmConformance('firecracker (its API only)', {
  makeVmm: make(fake),
  mapsMemory: false,
  skip: (await lackingForMachines()) ?? (process.getuid?.() === 0 ? undefined : 'not root, for whom /dev/fuse is'),
})

vmmConformance('firecracker', {
  makeVmm: make('firecracker'),
  skip: (await lackingForMachines()) ?? (await lackingForProgram()),
})

async function lackingForProgram(): Promise<string | undefined> {
  if (!(await execute('firecracker', ['--version']).catch(() => undefined))) return 'firecracker is not installed'
  const facts = await make('firecracker')().facts()
  return facts.healthy ? undefined : facts.reason
}
