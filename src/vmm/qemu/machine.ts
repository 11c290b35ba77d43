import { chown, copyFile, rename, rm } from 'node:fs/promises'
import { basename } from 'node:path'
import { Fault } from '../../model/fault.ts'
import type { Vm } from '../vmm.ts'
import { filesOf } from './command.ts'
import { emptyFileFor } from './hand-over.ts'
import { explained, type QemuProcess } from './process.ts'

/** The grip on one machine. */
export function qemuMachine(process: QemuProcess): Vm {
  const { qmp, mark, directory, uid } = process
  const files = filesOf(directory)
  return {
    pid: mark.pid,
    directory,
    channel: files.channel,
    console: files.console,
    exited: process.exited,
    stop: async () => {
      await qmp.execute('stop')
    },
    resume: async () => {
      await qmp.execute('cont')
    },
    saveDevices: async (file) => {
      // `live` leaves the disk with the machine, which may go on.
      if (uid !== undefined) emptyFileFor(files.devicesOut, uid)
      const filename = uid === undefined ? files.devicesOut : basename(files.devicesOut)
      await qmp.execute('xen-save-devices-state', { filename, live: true })
      if (uid !== undefined) await chown(files.devicesOut, 0, 0)
      await move(files.devicesOut, file)
    },
    kill: () => process.kill(),
    [Symbol.asyncDispose]: async () => process.letGo(),
  }
}

/** Loads the devices' state, which lies at the waiting QEMU's descriptor; leaves the machine stopped. */
export async function loadDevices(process: QemuProcess, { signal }: { signal: AbortSignal }): Promise<void> {
  const { qmp } = process
  const over = (data: Record<string, unknown>) => data['status'] === 'completed' || data['status'] === 'failed'
  const capabilities = ['x-ignore-shared', 'events'].map((capability) => ({ capability, state: true }))
  try {
    await qmp.execute('migrate-set-capabilities', { capabilities }, { signal })
    const finished = qmp.event('MIGRATION', over, { signal })
    finished.catch(() => {})
    await qmp.execute('migrate-incoming', { uri: 'fd:3' }, { signal })
    const { status } = await finished
    if (status === 'failed') throw new Fault('invalid', 'QEMU does not take this snapshot')
  } catch (error) {
    if (signal.aborted) throw error
    await process.exited
    throw await explained(new Fault('invalid', 'QEMU does not take this snapshot', { cause: error }), process.directory)
  }
}

async function move(from: string, to: string): Promise<void> {
  await rename(from, to).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EXDEV') throw error
    await copyFile(from, to)
    await rm(from)
  })
}
