import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmod, chown, open, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { allDone } from '../../kit/all-done.ts'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import { MachineShape } from '../../model/sandbox.ts'
import { openPrivateMemory, openReadable } from '../isolation/given-files.ts'
import { Inherited, inSelf } from '../isolation/inherited.ts'
import { type Isolation, userOf } from '../isolation/isolation.ts'
import { type Lodging, startLodged } from '../isolation/lodging.ts'
import { ended, findByArgument, isAlive, killMarked, markOf, type ProcessMark } from '../process-mark.ts'
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
  /** The user that is its alone; absent where it runs as the agent's. */
  uid: z.int().positive().optional(),
})
export type Note = z.infer<typeof Note>

/**
 * Names that a snapshot remembers. They are relative, and each machine has a directory of its own in which they are
 * its own: so one snapshot serves many.
 */
export const relative = {
  ...{ api: 'api.sock', disk: 'disk', channel: 'agent.sock' },
  ...{ devicesOut: 'devices.out', memoryOut: 'memory.out' },
}

export function filesOf(directory: string) {
  return {
    note: join(directory, 'vm.json'),
    api: join(directory, relative.api),
    channel: join(directory, relative.channel),
    console: join(directory, 'console.log'),
    log: join(directory, 'vmm.log'),
    disk: join(directory, relative.disk),
    devicesIn: join(directory, 'devices.in'),
    devicesOut: join(directory, relative.devicesOut),
    memoryOut: join(directory, relative.memoryOut),
  }
}

export interface FirecrackerProcess {
  readonly note: Note
  readonly directory: string
  readonly api: FirecrackerApi
  readonly exited: Promise<{ reason: string }>
  /** The name by which it opens a file that it was started with. */
  nameOf(path: string): string
  /** Where it is a user of its own: it has made its sockets, and makes nothing in its directory from now on. */
  closeDirectory(): Promise<void>
  /** Writes down who holds the disk, who is ended with the machine. */
  holdDisk(disk: ProcessMark): Promise<void>
  letGo(): void
  kill(): Promise<void>
}

export interface StartOptions {
  program: string
  /** Put before the program where it is not isolated. */
  wrapper: readonly string[]
  /** As whom and where it runs; undefined as the agent itself. */
  lodging: Lodging | undefined
  /** The device that its network card leads to, which is there already. */
  tap?: string | undefined
  /** What it will be told to read; where it is isolated it has these open. */
  files?: readonly GivenFile[]
  directory: string
  note: Omit<Note, 'vmm'>
  clock: Clock
  signal: AbortSignal
}

export interface GivenFile {
  path: string
  use: 'read' | 'private memory'
}

/**
 * Starts a Firecracker that outlives us and waits to be told what to run. Its standard output is the guest's console. Its
 * disk goes with it when this fails.
 */
export async function startProcess(options: StartOptions): Promise<FirecrackerProcess> {
  const { directory, clock, signal, lodging } = options
  const { disk, machine } = options.note
  const files = filesOf(directory)
  let vmm: ProcessMark | undefined
  let exit: Promise<string> | undefined
  let uid: number | undefined
  try {
    signal.throwIfAborted()
    uid = lodging?.isolation.claim(machine, lodging.overheadBytes)
    await using out = await open(files.console, 'a')
    await using log = await open(files.log, 'a')
    if (uid !== undefined) {
      if (disk) await chown(files.disk, uid, uid)
      await chown(directory, uid, uid)
      if (options.tap !== undefined) lodging?.isolation.native.giveTap(lodging.network, options.tap, uid)
    }
    const { child, names } = spawnIn(options, { uid, out: out.fd, log: log.fd })
    exit = exitOf(child)
    vmm = child.pid === undefined ? undefined : markOf(child.pid)
    if (vmm === undefined) throw new Fault('unavailable', `${options.program} cannot be started`, { cause: await exit })
    child.unref()
    const started = vmm
    const note = { ...options.note, vmm, ...(uid === undefined ? {} : { uid }) }
    const api = firecrackerApi(files.api)
    await allDone([
      listening(api, { clock, signal, gone: () => !isAlive(started) }),
      uid === undefined ? undefined : lodging?.isolation.enter(uid, vmm.pid),
      writeFile(files.note, JSON.stringify(note)),
    ])
    return firecrackerProcess({ note, directory, api, clock, exit, names, isolation: lodging?.isolation })
  } catch (error) {
    if (vmm) killMarked(vmm)
    await exit
    if (disk) await endDisk(disk, clock)
    if (uid !== undefined) await lodging?.isolation.release(uid)
    throw error
  }
}

/** All in one go; also gives the names by which it has its files. */
function spawnIn(
  { directory, program, wrapper, lodging, files = [] }: StartOptions,
  { uid, out, log }: { uid: number | undefined; out: number; log: number },
): { child: ChildProcess; names: Map<string, string> } {
  using inherited = new Inherited()
  inherited.stdio.push(out, log)
  const names = new Map<string, string>()
  const command = [program, '--api-sock', relative.api, '--id', idOf(directory)]
  const env = { PATH: process.env['PATH'] }
  if (lodging !== undefined && uid !== undefined) {
    for (const { path, use } of files) {
      const isMemory = use === 'private memory'
      const fd = isMemory ? openPrivateMemory(path, lodging.isolation) : openReadable(path, directory, uid)
      names.set(path, inSelf(inherited.add(fd)))
    }
    return { child: startLodged({ lodging, uid, command, directory, inherited, env }), names }
  }
  const [first = '', ...rest] = [...wrapper, ...command]
  const child = spawn(first, rest, { cwd: directory, detached: true, stdio: inherited.stdio, env })
  return { child, names }
}

/** By which it is found when its note was never written. Firecracker takes 64 letters and digits. */
function idOf(directory: string): string {
  return createHash('sha256').update(directory).digest('hex').slice(0, 32)
}

export async function adoptProcess(
  directory: string,
  { clock, isolation }: { clock: Clock; isolation: Isolation | undefined },
): Promise<FirecrackerProcess | undefined> {
  const note = await readNote(directory)
  if (note === undefined || !isAlive(note.vmm)) return undefined
  return firecrackerProcess({ note, directory, api: firecrackerApi(filesOf(directory).api), clock, isolation })
}

/** Ends what runs in a directory, whether or not its note was written: the machine first, then what holds its disk. */
export async function endProcesses(
  directory: string,
  { clock, isolation }: { clock: Clock; isolation: Isolation | undefined },
): Promise<void> {
  const note = await readNote(directory)
  const uids = new Set([note?.uid])
  for (const mark of note ? [note.vmm] : findByArgument(idOf(directory))) {
    if (note === undefined) uids.add(userOf(mark.pid))
    killMarked(mark)
    await ended(mark, { clock, everyMs: 5 })
  }
  for (const mark of note?.disk ? [note.disk] : findByArgument(exportArgument(filesOf(directory).disk)))
    await endDisk(mark, clock)
  for (const uid of uids) if (uid) await isolation?.release(uid)
  for (const file of Object.values(filesOf(directory))) await rm(file, { force: true })
}

/** What the process that makes a file of the disk's socket is told, by which it is known. */
export function exportArgument(file: string): string {
  return `type=fuse,id=file,node-name=disk,mountpoint=${file.replaceAll(',', ',,')},writable=on`
}

/** Asked kindly first, it takes its file away itself. */
export async function endDisk(mark: ProcessMark, clock: Clock): Promise<void> {
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
  names?: Map<string, string>
  isolation: Isolation | undefined
}

function firecrackerProcess({ note, directory, api, clock, exit, names, isolation }: Parts): FirecrackerProcess {
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
    exited: exited.then((reason) => {
      const wasTooLarge = note.uid !== undefined && isolation?.ranOutOfMemory(note.uid) === true
      return { reason: wasTooLarge ? `${reason}: its VMM took more memory than was set aside for it` : reason }
    }),
    nameOf: (path) => names?.get(path) ?? path,
    closeDirectory: async () => {
      if (note.uid !== undefined) await close(directory)
    },
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
      if (note.uid !== undefined) await isolation?.release(note.uid)
    },
  }
}

/** From here on whoever goes there by name finds what was put there, so that had better be what it is to be. */
async function close(directory: string): Promise<void> {
  await chown(directory, 0, 0)
  await chmod(directory, 0o711)
  const sockets: string[] = [relative.api, relative.channel]
  const found = await readdir(directory, { withFileTypes: true })
  for (const name of sockets)
    if (!found.some((entry) => entry.name === name))
      throw new Fault('unavailable', `Firecracker made no socket ${name} in ${directory}`)
  for (const entry of found)
    if (sockets.includes(entry.name) ? !entry.isSocket() : !entry.isFile())
      throw new Fault('unavailable', `Firecracker made something else of ${entry.name} in ${directory}`)
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
