import { type ChildProcess, spawn } from 'node:child_process'
import { open, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import { MachineShape } from '../../model/sandbox.ts'
import { ended, isAlive, killMarked, markOf, type ProcessMark } from '../process-mark.ts'
import { type FirecrackerApi, firecrackerApi, listening } from './api.ts'

const Mark = z.strictObject({ pid: z.int().positive(), start: z.string().max(30) })

/** What is written down of a machine for the next agent. */
const Note = z.strictObject({
  vmm: Mark,
  /** The process that makes a file of the disk's socket. */
  disk: Mark.nullable(),
  machine: MachineShape,
  /** The file that is to hold the memory of a machine that was booted. */
  memory: z.string().max(4096).nullable(),
})
export type Note = z.infer<typeof Note>

/**
 * Names that a snapshot remembers. They are relative, and each machine has a directory of its own in which they are
 * its own: so one snapshot serves many.
 */
export const relative = { disk: 'disk', channel: 'agent.sock' }

export function filesOf(directory: string) {
  return {
    note: join(directory, 'vm.json'),
    api: join(directory, 'api.sock'),
    channel: join(directory, relative.channel),
    console: join(directory, 'console.log'),
    log: join(directory, 'vmm.log'),
    disk: join(directory, relative.disk),
    devicesIn: join(directory, 'devices.in'),
    devicesOut: join(directory, 'devices.out'),
    memoryOut: join(directory, 'memory.out'),
  }
}

export interface FirecrackerProcess {
  readonly note: Note
  readonly directory: string
  readonly api: FirecrackerApi
  readonly exited: Promise<{ reason: string }>
  /** Writes down who holds the disk, who is ended with the machine. */
  holdDisk(disk: ProcessMark): Promise<void>
  letGo(): void
  kill(): Promise<void>
}

export interface StartOptions {
  program: string
  wrapper: readonly string[]
  directory: string
  note: Omit<Note, 'vmm'>
  clock: Clock
  signal: AbortSignal
}

/** Starts a Firecracker that outlives us and waits to be told what to run. Its standard output is the guest's console. */
export async function startProcess(options: StartOptions): Promise<FirecrackerProcess> {
  const { directory, clock, signal } = options
  const files = filesOf(directory)
  signal.throwIfAborted()
  await using out = await open(files.console, 'a')
  await using log = await open(files.log, 'a')
  const [program = '', ...args] = [...options.wrapper, options.program, '--api-sock', files.api, '--id', 'sandbox']
  const env = { PATH: process.env['PATH'] }
  const child = spawn(program, args, { cwd: directory, detached: true, stdio: ['ignore', out.fd, log.fd], env })
  const exit = exitOf(child)
  const vmm = child.pid === undefined ? undefined : markOf(child.pid)
  if (vmm === undefined) throw new Fault('unavailable', `${program} cannot be started`, { cause: await exit })
  child.unref()
  try {
    const note = { ...options.note, vmm }
    await writeFile(files.note, JSON.stringify(note))
    const api = firecrackerApi(files.api)
    await listening(api, { clock, signal, gone: () => !isAlive(vmm) })
    return firecrackerProcess({ note, directory, api, clock, exit })
  } catch (error) {
    killMarked(vmm)
    await exit
    throw error
  }
}

export async function adoptProcess(directory: string, clock: Clock): Promise<FirecrackerProcess | undefined> {
  const note = await readNote(directory)
  if (note === undefined || !isAlive(note.vmm)) return undefined
  return firecrackerProcess({ note, directory, api: firecrackerApi(filesOf(directory).api), clock })
}

/** Ends what runs in a directory: the machine first, then what holds its disk. */
export async function endProcesses(directory: string, clock: Clock): Promise<void> {
  const note = await readNote(directory)
  if (note) {
    killMarked(note.vmm)
    await ended(note.vmm, { clock, everyMs: 5 })
    if (note.disk) await endDisk(note.disk, clock)
  }
  for (const file of Object.values(filesOf(directory))) await rm(file, { force: true })
}

/** Asked kindly first, it takes its file away itself. */
async function endDisk(mark: ProcessMark, clock: Clock): Promise<void> {
  killMarked(mark, 'SIGTERM')
  const patience = new AbortController()
  const patient = clock.sleep(5000, { signal: patience.signal }).then(() => killMarked(mark))
  patient.catch(() => {})
  await ended(mark, { clock, everyMs: 5 })
  patience.abort()
}

async function readNote(directory: string): Promise<Note | undefined> {
  try {
    return Note.parse(JSON.parse(await readFile(filesOf(directory).note, 'utf8')))
  } catch {
    return undefined
  }
}

interface Parts {
  note: Note
  directory: string
  api: FirecrackerApi
  clock: Clock
  exit?: Promise<string>
}

function firecrackerProcess({ note, directory, api, clock, exit }: Parts): FirecrackerProcess {
  const watching = new AbortController()
  const watched = ended(note.vmm, { clock, signal: watching.signal }).then(
    () => exit ?? 'Firecracker ended',
    () => new Promise<string>(() => {}),
  )
  const exited = Promise.race([watched, ...(exit === undefined ? [] : [exit])])
  return {
    note,
    directory,
    api,
    exited: exited.then((reason) => ({ reason })),
    holdDisk: async (disk) => {
      note.disk = disk
      await writeFile(filesOf(directory).note, JSON.stringify(note))
    },
    letGo: () => watching.abort(),
    kill: async () => {
      killMarked(note.vmm)
      await ended(note.vmm, { clock, everyMs: 5 })
      await exit
      if (note.disk) await endDisk(note.disk, clock)
    },
  }
}

function exitOf(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('exit', (code, signal) => {
      if (signal !== null) resolve(`Firecracker was ended by ${signal}`)
      // A guest that restarts or powers off ends Firecracker, and it calls that success.
      else resolve(code === 0 ? 'the guest shut itself down' : `Firecracker ended with ${code}`)
    })
  })
}
