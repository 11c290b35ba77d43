import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { chmod, chown, copyFile, rename, rm } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { basename } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { Fault } from '../../model/fault.ts'
import { emptyFileFor } from '../isolation/given-files.ts'
import type { Vm } from '../vmm.ts'
import { filesOf } from './command.ts'
import { explained, type QemuProcess } from './process.ts'
import type { Qmp } from './qmp.ts'

/** The grip on one machine. */
export function qemuMachine(process: QemuProcess, { saving }: { saving: 'devices' | 'whole' }): Vm {
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
      if (saving === 'whole') return saveWhole(process, file)
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
  try {
    await prepareMigration(qmp, { signal })
    const finished = qmp.event('MIGRATION', isOver, { signal })
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

/**
 * For a QEMU that cannot leave memory out: it migrates to us. Memory that is shared with a file stays out of it, so that of
 * a machine that booted this gives the devices alone; a clone's comes with it.
 */
async function saveWhole({ qmp, directory, uid }: QemuProcess, file: string): Promise<void> {
  const { signal } = new AbortController()
  const path = filesOf(directory).migration
  await rm(path, { force: true })
  const server = createServer().listen(path)
  try {
    await once(server, 'listening')
    if (uid !== undefined) await chmod(path, 0o666)
    const received = once(server, 'connection').then(([socket]) => pipeline(socket as Socket, createWriteStream(file)))
    received.catch(() => {})
    await prepareMigration(qmp, { signal })
    await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 })
    const finished = qmp.event('MIGRATION', isOver, { signal })
    finished.catch(() => {})
    await qmp.execute('migrate', { uri: `unix:${basename(path)}` })
    if ((await finished)['status'] === 'failed') throw new Fault('unavailable', 'QEMU could not save the machine')
    await received
  } finally {
    server.close()
  }
}

async function prepareMigration(qmp: Qmp, options: { signal: AbortSignal }): Promise<void> {
  const capabilities = ['x-ignore-shared', 'events'].map((capability) => ({ capability, state: true }))
  await qmp.execute('migrate-set-capabilities', { capabilities }, options)
}

function isOver({ status }: Record<string, unknown>): boolean {
  return status === 'completed' || status === 'failed'
}

async function move(from: string, to: string): Promise<void> {
  await rename(from, to).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EXDEV') throw error
    await copyFile(from, to)
    await rm(from)
  })
}
