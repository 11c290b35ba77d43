import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { z } from 'zod'
import { type Clock, deadline } from '../../kit/clock.ts'
import { connectQmp } from './qmp.ts'

/** What an installed QEMU says of itself. */
export interface QemuAnswers {
  /** `7.2.22` */
  version: string
  machines: string[]
  commands: string[]
  /** CPU models that it can make in full with this accelerator. */
  cpus: string[]
  netdevs: string[]
}

/** Starts it without a machine and asks over its monitor. */
export async function askQemu(program: string, accelerator: string, clock: Clock): Promise<QemuAnswers> {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-qemu-'))
  const path = join(directory, 'qmp.sock')
  const child = spawn(
    program,
    [
      '-machine',
      'none',
      '-accel',
      accelerator,
      '-nodefaults',
      '-display',
      'none',
      '-qmp',
      `unix:${path},server=on,wait=off`,
    ],
    { stdio: 'ignore' },
  )
  const exit = once(child, 'exit').catch(() => {})
  using limit = deadline(clock, 10_000)
  try {
    const gone = () => (child.exitCode === null && child.pid !== undefined ? undefined : `${program} ended at once`)
    using qmp = await connectQmp({ path, clock, signal: limit.signal, gone })
    const names = async (command: string) => Names.parse(await qmp.execute(command, {}, limit)).map(({ name }) => name)
    const cpus = Cpus.parse(await qmp.execute('query-cpu-definitions', {}, limit).catch(() => []))
    return {
      version: qmp.version,
      machines: await names('query-machines'),
      commands: await names('query-commands'),
      cpus: cpus.filter((cpu) => cpu['unavailable-features']?.length === 0).map(({ name }) => name),
      netdevs: await netdevsOf(program),
    }
  } finally {
    child.kill('SIGKILL')
    await exit
    await rm(directory, { recursive: true, force: true })
  }
}

const Names = z.array(z.object({ name: z.string() }))
const Cpus = z.array(z.object({ name: z.string(), 'unavailable-features': z.array(z.string()).optional() }))

async function netdevsOf(program: string): Promise<string[]> {
  const { stdout } = await promisify(execFile)(program, ['-machine', 'none', '-netdev', 'help'])
  return stdout.split('\n').filter((line) => /^[a-z-]+$/.test(line))
}
