import { type ChildProcess, spawn } from 'node:child_process'
import { open, readFile, rm, writeFile } from 'node:fs/promises'
import { z } from 'zod'
import { allDone } from '../../kit/all-done.ts'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import { MachineShape } from '../../model/sandbox.ts'
import { Inherited } from '../isolation/inherited.ts'
import { type Isolation, userOf } from '../isolation/isolation.ts'
import { type Lodging, startLodged } from '../isolation/lodging.ts'
import { ended, findByArgument, isAlive, killMarked, markOf, type ProcessMark } from '../process-mark.ts'
import { byName, devicesDescriptor, filesOf, layersPath, markArgument, type Reach } from './command.ts'
import { byDescriptor } from './hand-over.ts'
import { connectQmp, type Qmp } from './qmp.ts'

/** What is written down of a machine for the next agent. */
export const VmNote = z.strictObject({
  pid: z.int().positive(),
  start: z.string().max(30),
  machine: MachineShape,
  memory: z.string().max(4096).nullable(),
  /** The user that is its alone; absent where it runs as the agent's. */
  uid: z.int().positive().optional(),
})
export type VmNote = z.infer<typeof VmNote>

/** A QEMU with its monitor. */
export interface QemuProcess {
  readonly mark: ProcessMark
  readonly directory: string
  readonly qmp: Qmp
  /** The user that is its alone. */
  readonly uid: number | undefined
  /** Settles when it has ended; never rejects. */
  readonly exited: Promise<{ reason: string }>
  letGo(): void
  kill(): Promise<void>
}

export interface StartOptions {
  command: (reach: Reach) => string[]
  /** As whom and where it runs; undefined as the agent itself. */
  lodging?: Lodging | undefined
  /** Put before the program where it is not isolated, such as a program that enters a network namespace. */
  wrapper?: readonly string[] | undefined
  directory: string
  machine: MachineShape
  memory: string | null
  /** The library that lays a machine's memory; see native/memory-layers.c. */
  layers?: string | undefined
  clock: Clock
  signal: AbortSignal
}

/**
 * Starts a QEMU that outlives us: a session of its own, nothing of ours on its inputs and outputs. Its monitor answers when
 * this resolves.
 */
export async function startProcess(options: StartOptions): Promise<QemuProcess> {
  const { directory, machine, memory, clock, signal, lodging } = options
  const files = filesOf(directory)
  signal.throwIfAborted()
  await using log = await open(files.log, 'a')
  await using devices = await open(files.devicesIn, 'w+', 0o600)
  const isolation = lodging?.isolation
  const uid = lodging?.isolation.claim(machine, lodging.overheadBytes)
  let mark: ProcessMark | undefined
  let exit: Promise<string> | undefined
  try {
    const child = spawnIn(options, { uid, log: log.fd, devices: devices.fd })
    exit = exitOf(child)
    mark = child.pid === undefined ? undefined : markOf(child.pid)
    if (mark === undefined) throw new Fault('unavailable', 'QEMU cannot be started', { cause: await exit })
    child.unref()
    const note: VmNote = { ...mark, machine, memory, ...(uid === undefined ? {} : { uid }) }
    const gone = () => (mark && isAlive(mark) ? undefined : 'QEMU ended while it started')
    const [qmp] = await allDone([
      connectQmp({ path: files.monitor, clock, signal, gone }),
      uid === undefined ? undefined : isolation?.enter(uid, mark.pid),
      writeFile(files.note, JSON.stringify(note)),
    ])
    return qemuProcess({ mark, directory, qmp, clock, exit, uid, isolation })
  } catch (error) {
    const endedItself = mark !== undefined && !isAlive(mark) && !signal.aborted
    if (mark) killMarked(mark)
    const how = await exit
    if (uid !== undefined) await isolation?.release(uid)
    throw await explained(
      endedItself ? new Fault('unavailable', `${how} while it started`, { cause: error }) : error,
      directory,
    )
  }
}

function spawnIn(
  { directory, command, lodging, wrapper = [], layers }: StartOptions,
  { uid, log, devices }: { uid: number | undefined; log: number; devices: number },
): ChildProcess {
  using inherited = new Inherited()
  inherited.stdio.push(log, log, devices)
  if (inherited.stdio.indexOf(devices) !== devicesDescriptor)
    throw new Error('the device state is at another descriptor')
  const isolated = lodging === undefined || uid === undefined ? undefined : { lodging, uid }
  const reach = isolated
    ? byDescriptor(directory, isolated.uid, isolated.lodging.isolation, inherited)
    : byName(directory)
  const library = layers === undefined ? {} : { LD_PRELOAD: reach.file(layers, 'read'), TUTTI_MEMORY: layersPath }
  const env = { PATH: process.env['PATH'], ...library }
  if (isolated) return startLodged({ ...isolated, command: command(reach), directory, inherited, env })
  const [program = '', ...args] = [...wrapper, ...command(reach)]
  return spawn(program, args, { detached: true, stdio: inherited.stdio, cwd: directory, env })
}

/** Takes over a QEMU that an earlier agent started. */
export async function adoptProcess(
  directory: string,
  { clock, signal, isolation }: { clock: Clock; signal: AbortSignal; isolation: Isolation | undefined },
): Promise<(QemuProcess & { note: VmNote }) | undefined> {
  const note = await readNote(directory)
  if (note === undefined || !isAlive(note)) return undefined
  const gone = () => (isAlive(note) ? undefined : 'QEMU ended')
  try {
    const qmp = await connectQmp({ path: filesOf(directory).monitor, clock, signal, gone })
    return { ...qemuProcess({ mark: note, directory, qmp, clock, uid: note.uid, isolation }), note }
  } catch (error) {
    if (!isAlive(note)) return undefined
    throw error
  }
}

/** Ends what runs in a directory, whether or not its note was written. */
export async function endProcess(
  directory: string,
  { clock, isolation }: { clock: Clock; isolation: Isolation | undefined },
): Promise<void> {
  const files = filesOf(directory)
  const note = await readNote(directory)
  const uids = new Set([note?.uid])
  for (const mark of note && isAlive(note) ? [note] : findByArgument(markArgument(directory))) {
    if (note === undefined) uids.add(userOf(mark.pid))
    killMarked(mark)
    await ended(mark, { clock, everyMs: 5 })
  }
  for (const uid of uids) if (uid !== undefined) await isolation?.release(uid)
  for (const file of Object.values(files)) await rm(file, { force: true })
}

/** The error with QEMU's own last words. */
export async function explained(error: unknown, directory: string): Promise<unknown> {
  const words = await lastWords(directory)
  if (words === '' || !(error instanceof Fault) || error.message.includes(words)) return error
  return new Fault(error.code, `${error.message}: ${words}`, { cause: error.cause })
}

async function lastWords(directory: string): Promise<string> {
  const text = await readFile(filesOf(directory).log, 'utf8').catch(() => '')
  const lines = text.split('\n').map((line) => line.replace(/^\S*qemu-system-\w+: /, '').trim())
  const telling = lines.filter((line) => line !== '' && !harmless.test(line))
  // Why it was not loaded is said before that.
  const causes = telling.filter((line) => !line.startsWith('load of migration failed'))
  return ([...telling, ...causes].at(-1) ?? '').slice(0, 500)
}

/** Said of every machine: its network's other end comes later, and saved devices carry no description of themselves. */
const harmless = /^warning: |Expected vmdescription section/

async function readNote(directory: string): Promise<VmNote | undefined> {
  const text = await readFile(filesOf(directory).note, 'utf8').catch(() => '')
  try {
    return VmNote.parse(JSON.parse(text))
  } catch {
    return undefined
  }
}

interface Parts {
  mark: ProcessMark
  directory: string
  qmp: Qmp
  clock: Clock
  /** Known only of our own children. */
  exit?: Promise<string>
  uid: number | undefined
  isolation: Isolation | undefined
}

function qemuProcess({ mark, directory, qmp, clock, exit, uid, isolation }: Parts): QemuProcess {
  const watching = new AbortController()
  const exited = Promise.race([
    ...(exit === undefined ? [] : [exit]),
    ended(mark, { clock, hint: qmp.closed, signal: watching.signal }).then(
      () => exit ?? 'QEMU ended',
      () => new Promise<string>(() => {}),
    ),
  ]).then(async (how) => {
    const wasTooLarge = uid !== undefined && isolation?.ranOutOfMemory(uid) === true
    const words = wasTooLarge ? 'its VMM took more memory than was set aside for it' : await lastWords(directory)
    return { reason: shutdownReason(qmp) ?? [how, words].filter(Boolean).join(': ') }
  })
  return {
    mark,
    directory,
    qmp,
    uid,
    exited,
    letGo: () => {
      watching.abort()
      qmp[Symbol.dispose]()
    },
    kill: async () => {
      killMarked(mark)
      await ended(mark, { clock, everyMs: 5, hint: qmp.closed })
      await exit
      if (uid !== undefined) await isolation?.release(uid)
    },
  }
}

function shutdownReason(qmp: Qmp): string | undefined {
  const reason = qmp.last('SHUTDOWN')?.['reason']
  if (reason === 'guest-shutdown') return 'the guest shut itself down'
  if (reason === 'guest-reset') return 'the guest restarted itself, which ends a sandbox; its console says why'
  if (reason === 'guest-panic') return 'the kernel of the guest panicked; its console says why'
  return undefined
}

function exitOf(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('exit', (code, signal) =>
      resolve(signal === null ? `QEMU ended with ${code}` : `QEMU was ended by ${signal}`),
    )
  })
}
