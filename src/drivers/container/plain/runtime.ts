import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { runTool } from '../../../images/run-tool.ts'
import type { Image, ImageStore, ImageUse } from '../../../images/store.ts'
import { type Clock, deadline } from '../../../kit/clock.ts'
import { Fault } from '../../../model/fault.ts'
import type { DriverFacts } from '../../../model/node.ts'
import type { Handle, PrepareOptions, TaskPlan } from '../../driver.ts'
import { startFault } from '../faults.ts'
import type { Form } from '../form.ts'
import { TaskNotes } from '../notes.ts'
import { isAlive, sendSignal } from '../processes.ts'
import { imageOf, settingsOf } from '../settings.ts'
import { AttemptFiles } from './attempt.ts'
import { bundleConfig, type ProcessConfig } from './bundle.ts'
import { canLimitSwap, cgroupsOf, clearCgroup, findCgroups, oomFile, readStats } from './cgroups.ts'
import { PlainGuest } from './guest.ts'
import { AttemptWatch, PlainHandle } from './handle.ts'
import type { Runtime } from './probe.ts'
import { supervise } from './supervisor.ts'

export interface PlainOptions {
  /** For what is not of one task: the runtime's state, and notes on which task uses what. */
  directory: string
  images: ImageStore
  clock: Clock
  runtime: Runtime
  architecture: string
  /** `copy` where overlay mounts do not work; tried by itself when they fail. */
  rootfs?: 'overlay' | 'copy'
}

/**
 * Containers by an OCI runtime and nothing else. Every attempt has a directory in the task's state directory, written
 * before anything is started and removed last, so that it can be found, finished or cleaned up at any time.
 */
export class PlainRuntime implements Form {
  readonly #options: PlainOptions
  readonly #cgroups = findCgroups()
  readonly #starting = new Map<string, Promise<Handle>>()
  readonly #notes: TaskNotes

  constructor(options: PlainOptions) {
    this.#options = options
    this.#notes = new TaskNotes(join(options.directory, 'tasks'))
  }

  /** It worked when it was tried; what can go since is the program itself. */
  async check(): Promise<DriverFacts> {
    const { name, version } = this.#options.runtime
    const attributes = { runtime: name, networks: 'host,none' }
    const { code } = await runTool(name, ['--version']).catch(() => ({ code: 127 }))
    if (code === 0) return { healthy: true, version, attributes }
    return { healthy: false, reason: `${name} does not run any more`, remedy: `apt-get install ${name}`, attributes }
  }

  async prepare(plan: TaskPlan, options: PrepareOptions): Promise<void> {
    await this.#image(plan, options)
  }

  async start(plan: TaskPlan, { signal }: { signal: AbortSignal }): Promise<Handle> {
    const files = this.#files(plan)
    const same = this.#starting.get(files.containerId)
    if (same !== undefined) return await same
    const starting = this.#startOrAdopt(plan, files, signal).finally(() => this.#starting.delete(files.containerId))
    this.#starting.set(files.containerId, starting)
    return starting
  }

  async adopt(plan: TaskPlan): Promise<Handle | undefined> {
    const files = this.#files(plan)
    if (!existsSync(files.directory) || files.look() === 'none') return undefined
    const watch = new AttemptWatch(files, this.#options.clock)
    try {
      using patience = deadline(this.#options.clock, 30_000)
      if ((await watch.begun(patience.signal)) !== 'failed') return this.#handle(plan, files, watch)
      watch[Symbol.dispose]()
      return undefined
    } catch (error) {
      watch[Symbol.dispose]()
      throw new Fault('unavailable', `container of task "${plan.task}" has been starting for 30 s`, { cause: error })
    }
  }

  async remove({ id }: Pick<TaskPlan, 'id'>): Promise<void> {
    const note = await this.#notes.read(id)
    const attempts = new Set<string>()
    for (const name of await readdir(this.#runtimeRoot).catch(() => [])) if (isOf(name, id)) attempts.add(name)
    for (const path of await cgroupsOf(this.#cgroups, `${id}.`)) attempts.add(path.slice(path.lastIndexOf('/') + 1))
    const directories = note ? await readdir(note.stateDirectory).catch(() => []) : []
    for (const name of directories) {
      const attempt = /^container-(\d+)$/.exec(name)?.[1]
      if (attempt !== undefined) attempts.add(`${id}.${attempt}`)
    }
    for (const containerId of attempts) {
      const attempt = Number(containerId.slice(id.length + 1))
      await this.#destroy(new AttemptFiles(note?.stateDirectory ?? this.#options.directory, id, attempt))
    }
    await this.#notes.remove(id)
  }

  async images(): Promise<ImageUse[]> {
    return this.#options.images.list()
  }

  async evict(budgetBytes: number): Promise<string[]> {
    const inUse = await this.#notes.imagesInUse()
    return this.#options.images.evict({ budgetBytes, inUse })
  }

  async #startOrAdopt(plan: TaskPlan, files: AttemptFiles, signal: AbortSignal): Promise<Handle> {
    const there = await this.adopt(plan)
    if (there) return there
    signal.throwIfAborted()
    const image = await this.#preparedImage(plan, signal)
    // Of an attempt that was broken off before its task ran.
    if (existsSync(files.directory)) await this.#destroy(files)
    const before = await lengths(plan.output)
    try {
      return await this.#launch(plan, files, image, signal)
    } catch (error) {
      await this.#destroy(files)
      await restoreLengths(plan.output, before)
      throw error
    }
  }

  async #launch(plan: TaskPlan, files: AttemptFiles, image: Image, signal: AbortSignal): Promise<Handle> {
    const { clock, runtime, rootfs } = this.#options
    await this.#write(plan, files, image)
    const watch = new AttemptWatch(files, clock)
    try {
      await supervise({
        files,
        lower: image.rootfs,
        runtime: runtime.name,
        runtimeRoot: this.#runtimeRoot,
        containerId: files.containerId,
        oomFile: oomFile(this.#cgroups, files.cgroup),
        rootfs: overlayCanName([image.rootfs, files.directory]) ? (rootfs ?? 'overlay') : 'copy',
        keep: runtime.keep,
        output: plan.output,
        onEnd: () => watch.over(),
      })
      const state = await watch.begun(signal)
      if (state === 'failed') throw startFault(plan, files.complaint)
      return this.#handle(plan, files, watch)
    } catch (error) {
      watch[Symbol.dispose]()
      throw error
    }
  }

  async #write(plan: TaskPlan, files: AttemptFiles, image: Image): Promise<void> {
    const { architecture, runtime } = this.#options
    const alone = plan.spec.network === 'none'
    const name = settingsOf(plan).hostname ?? (alone ? plan.allocation : hostname())
    const seen = { '/etc/hosts': files.at('hosts'), '/etc/hostname': files.at('hostname') }
    const config = bundleConfig({
      plan,
      image,
      rootfs: files.at('rootfs'),
      cgroup: files.cgroup,
      files: alone ? seen : { ...seen, '/etc/resolv.conf': files.at('resolv.conf') },
      hostname: name,
      architecture,
      seccomp: runtime.seccomp,
      limitSwap: canLimitSwap(this.#cgroups),
    })
    await mkdir(files.directory, { mode: 0o700 })
    await mkdir(this.#runtimeRoot, { recursive: true, mode: 0o700 })
    const hosts = alone ? '' : await readFile('/etc/hosts', 'utf8').catch(() => '')
    await Promise.all([
      ...['rootfs', 'upper', 'work'].map((part) => mkdir(files.at(part), { mode: 0o755 })),
      writeFile(files.at('config.json'), JSON.stringify(config), { mode: 0o600 }),
      writeFile(files.at('hosts'), hosts || `127.0.0.1 localhost\n::1 localhost\n127.0.1.1 ${name}\n`),
      writeFile(files.at('hostname'), `${name}\n`),
      ...(alone
        ? []
        : [writeFile(files.at('resolv.conf'), await readFile('/etc/resolv.conf', 'utf8').catch(() => ''))]),
    ])
  }

  #handle(plan: TaskPlan, files: AttemptFiles, watch: AttemptWatch): Handle {
    const { clock, runtime } = this.#options
    const guest = new PlainGuest({
      files,
      clock,
      runtime: runtime.path,
      runtimeRoot: this.#runtimeRoot,
      process: async () => JSON.parse(await readFile(files.at('config.json'), 'utf8')).process as ProcessConfig,
      dropCapabilities: settingsOf(plan).dropCapabilities,
    })
    return new PlainHandle({ files, watch, clock, guest, stats: () => readStats(this.#cgroups, files.cgroup) })
  }

  /** Ends an attempt however far it came. Its supervisor goes first, so that nothing begins while we clean up. */
  async #destroy(files: AttemptFiles): Promise<void> {
    const { clock, runtime } = this.#options
    const supervisor = files.supervisor
    if (supervisor && isAlive(supervisor)) sendSignal(-supervisor.pid, 'SIGKILL')
    if (existsSync(join(this.#runtimeRoot, files.containerId)))
      await runTool(runtime.name, ['--root', this.#runtimeRoot, 'delete', '--force', files.containerId])
    await clearCgroup(this.#cgroups, files.cgroup, clock)
    for (let tries = 0; supervisor && isAlive(supervisor) && tries < 500; tries++) await clock.sleep(10)
    await rm(join(this.#runtimeRoot, files.containerId), { recursive: true, force: true })
    await rm(files.directory, { recursive: true, force: true })
  }

  /** The image that `prepare` noted; when an attempt is begun again after a crash it must not be another. */
  async #preparedImage(plan: TaskPlan, signal: AbortSignal): Promise<Image> {
    const note = await this.#notes.read(plan.id)
    const image = note && note.name === imageOf(plan) ? await this.#options.images.get(note.image) : undefined
    if (image && existsSync(image.rootfs)) return image
    return this.#image(plan, { signal, progress: () => {} })
  }

  async #image(plan: TaskPlan, { signal, progress }: PrepareOptions): Promise<Image> {
    const { pull, credentials } = plan.spec
    const name = imageOf(plan)
    const { image, release } = await this.#options.images.obtain(name, { pull, credentials, signal, progress })
    await this.#notes.write(plan.id, { stateDirectory: plan.stateDirectory, name, image: image.digest }, release)
    return image
  }

  #files(plan: TaskPlan): AttemptFiles {
    return new AttemptFiles(plan.stateDirectory, plan.id, plan.attempt)
  }

  get #runtimeRoot(): string {
    return join(this.#options.directory, 'runtime')
  }
}

function isOf(name: string, id: string): boolean {
  return name.startsWith(`${id}.`) && /^\d+$/.test(name.slice(id.length + 1))
}

/** Options of a mount are one string, in which these characters mean something. */
function overlayCanName(paths: readonly string[]): boolean {
  return paths.every((path) => !/[,:\\]/.test(path))
}

type Output = TaskPlan['output']

async function lengths(output: Output): Promise<Record<keyof Output, number>> {
  const length = (path: string) =>
    stat(path).then(
      (file) => file.size,
      () => 0,
    )
  return { stdout: await length(output.stdout), stderr: await length(output.stderr) }
}

/** The runtime's complaint went where the task's output goes; it is in the fault, and the task has said nothing. */
async function restoreLengths(output: Output, before: Record<keyof Output, number>): Promise<void> {
  for (const stream of ['stdout', 'stderr'] as const) {
    const file = await stat(output[stream]).catch(() => undefined)
    if (file?.isFile() && file.size > before[stream]) await truncate(output[stream], before[stream])
  }
}
