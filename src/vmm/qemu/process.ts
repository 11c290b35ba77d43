import { type ChildProcess, spawn } from 'node:child_process'
import { open, readFile, rm, writeFile } from 'node:fs/promises'
import { z } from 'zod'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import { MachineShape } from '../../model/sandbox.ts'
import { ended, findByArgument, isAlive, killMarked, markOf, type ProcessMark } from '../process-mark.ts'
import { devicesDescriptor, filesOf, layersOf } from './command.ts'
import { connectQmp, type Qmp } from './qmp.ts'

/** What is written down of a machine for the next agent. */
export const VmNote = z.strictObject({
  pid: z.int().positive(),
  start: z.string().max(30),
  machine: MachineShape,
  memory: z.string().max(4096).nullable(),
})
export type VmNote = z.infer<typeof VmNote>

/** A QEMU with its monitor. */
export interface QemuProcess {
  readonly mark: ProcessMark
  readonly directory: string
  readonly qmp: Qmp
  /** Settles when it has ended; never rejects. */
  readonly exited: Promise<{ reason: string }>
  letGo(): void
  kill(): Promise<void>
}

export interface StartOptions {
  command: readonly string[]
  /** Put before the program, such as a program that enters a network namespace. */
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
  const { directory, machine, memory, clock, signal } = options
  const files = filesOf(directory)
  const [program = '', ...args] = [...(options.wrapper ?? []), ...options.command]
  signal.throwIfAborted()
  await using log = await open(files.log, 'a')
  await using devices = await open(files.devicesIn, 'w+', 0o600)
  const stdio = ['ignore', log.fd, log.fd, devices.fd] as const
  if (stdio.indexOf(devices.fd) !== devicesDescriptor) throw new Error('the device state is at another descriptor')
  const child = spawn(program, args, {
    detached: true,
    stdio: [...stdio],
    cwd: directory,
    env: {
      PATH: process.env['PATH'],
      ...(options.layers === undefined ? {} : { LD_PRELOAD: options.layers, TUTTI_MEMORY: layersOf(directory) }),
    },
  })
  const exit = exitOf(child)
  const mark = child.pid === undefined ? undefined : markOf(child.pid)
  if (mark === undefined) throw new Fault('unavailable', `${program} cannot be started`, { cause: await exit })
  child.unref()
  try {
    const note: VmNote = { ...mark, machine, memory }
    await writeFile(files.note, JSON.stringify(note))
    const gone = () => (isAlive(mark) ? undefined : 'QEMU ended while it started')
    const qmp = await connectQmp({ path: files.monitor, clock, signal, gone })
    return qemuProcess({ mark, directory, qmp, clock, exit })
  } catch (error) {
    killMarked(mark)
    await exit
    throw await explained(error, directory)
  }
}

/** Takes over a QEMU that an earlier agent started. */
export async function adoptProcess(
  directory: string,
  { clock, signal }: { clock: Clock; signal: AbortSignal },
): Promise<(QemuProcess & { note: VmNote }) | undefined> {
  const note = await readNote(directory)
  if (note === undefined || !isAlive(note)) return undefined
  const gone = () => (isAlive(note) ? undefined : 'QEMU ended')
  try {
    const qmp = await connectQmp({ path: filesOf(directory).monitor, clock, signal, gone })
    return { ...qemuProcess({ mark: note, directory, qmp, clock }), note }
  } catch (error) {
    if (!isAlive(note)) return undefined
    throw error
  }
}

/** Ends what runs in a directory, whether or not its note was written. */
export async function endProcess(directory: string, clock: Clock): Promise<void> {
  const files = filesOf(directory)
  const note = await readNote(directory)
  const monitor = `unix:${files.monitor.replaceAll(',', ',,')},server=on,wait=off`
  for (const mark of note && isAlive(note) ? [note] : findByArgument(monitor)) {
    killMarked(mark)
    await ended(mark, { clock, everyMs: 5 })
  }
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
}

function qemuProcess({ mark, directory, qmp, clock, exit }: Parts): QemuProcess {
  const watching = new AbortController()
  const exited = Promise.race([
    ...(exit === undefined ? [] : [exit]),
    ended(mark, { clock, hint: qmp.closed, signal: watching.signal }).then(
      () => exit ?? 'QEMU ended',
      () => new Promise<string>(() => {}),
    ),
  ]).then(async (how) => ({
    reason: shutdownReason(qmp) ?? [how, await lastWords(directory)].filter(Boolean).join(': '),
  }))
  return {
    mark,
    directory,
    qmp,
    exited,
    letGo: () => {
      watching.abort()
      qmp[Symbol.dispose]()
    },
    kill: async () => {
      killMarked(mark)
      await ended(mark, { clock, everyMs: 5, hint: qmp.closed })
      await exit
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
