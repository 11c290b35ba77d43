import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { ImageUse } from '../../../images/store.ts'
import type { Clock } from '../../../kit/clock.ts'
import { Fault, sentence } from '../../../model/fault.ts'
import type { DriverFacts } from '../../../model/node.ts'
import type { Handle, PrepareOptions, TaskPlan } from '../../driver.ts'
import { startFault } from '../faults.ts'
import type { Form } from '../form.ts'
import { TaskNotes } from '../notes.ts'
import { argumentsOf, imageOf, settingsOf, workingDirectoryOf } from '../settings.ts'
import { EngineClient, EngineError } from './client.ts'
import { type ContainerState, containerName, createBody, isUnborn, taskLabel } from './container.ts'
import { EngineGuest } from './guest.ts'
import { EngineHandle, inspectContainer } from './handle.ts'
import { type EngineImage, EngineImages } from './images.ts'
import { OutputCopy } from './output.ts'

export interface EngineOptions {
  /** For notes on which task uses what: absolute, ours alone. */
  directory: string
  clock: Clock
  architecture: string
}

/**
 * Containers by an engine with Docker's API. The engine is the parent and keeps the output, so a container outlives us
 * by itself; name and labels say whose it is.
 */
export class EngineForm implements Form {
  readonly #client: EngineClient
  readonly #clock: Clock
  readonly #engine: 'docker' | 'podman'
  readonly #version: string
  readonly #images: EngineImages
  readonly #notes: TaskNotes
  readonly #starting = new Map<string, Promise<Handle>>()

  private constructor(client: EngineClient, engine: 'docker' | 'podman', version: string, options: EngineOptions) {
    const { directory, clock, architecture } = options
    this.#client = client
    this.#clock = clock
    this.#engine = engine
    this.#version = version
    this.#images = new EngineImages({ client, clock, directory: join(directory, 'engine-images'), architecture })
    this.#notes = new TaskNotes(join(directory, 'engine-tasks'))
  }

  /** `host` as in DOCKER_HOST. */
  static async connect(host: string, options: EngineOptions): Promise<EngineForm> {
    const { client, version } = await EngineClient.connect(host)
    const podman = version.Components?.some(({ Name }) => /podman/i.test(Name))
    return new EngineForm(client, podman ? 'podman' : 'docker', version.Version, options)
  }

  get engine(): 'docker' | 'podman' {
    return this.#engine
  }

  async check(): Promise<DriverFacts> {
    const attributes = { runtime: this.#engine, networks: 'host,bridge,none' }
    try {
      await (await this.#client.open('GET', '/_ping')).resume()
      return { healthy: true, version: this.#version, attributes }
    } catch (error) {
      return { healthy: false, reason: sentence(error).slice(0, 1000), remedy: `start ${this.#engine}`, attributes }
    }
  }

  async prepare(plan: TaskPlan, options: PrepareOptions): Promise<void> {
    await this.#image(plan, options)
  }

  async start(plan: TaskPlan, { signal }: { signal: AbortSignal }): Promise<Handle> {
    const name = containerName(plan)
    const same = this.#starting.get(name)
    if (same !== undefined) return await same
    const starting = this.#startOrAdopt(plan, signal).finally(() => this.#starting.delete(name))
    this.#starting.set(name, starting)
    return starting
  }

  async adopt(plan: TaskPlan): Promise<Handle | undefined> {
    const state = await inspectContainer(this.#client, containerName(plan))
    return state === undefined || isUnborn(state) ? undefined : this.#handle(plan, state)
  }

  async remove({ id }: Pick<TaskPlan, 'id'>): Promise<void> {
    const filters = encodeURIComponent(JSON.stringify({ label: [`${taskLabel}=${id}`] }))
    const list = async () =>
      ContainerList.parse(await this.#client.call('GET', `/containers/json?all=1&filters=${filters}`))
    for (let tries = 0, found = await list(); found.length > 0; found = await list(), tries++) {
      if (tries > 100) throw new Fault('unavailable', `the container engine does not remove the containers of "${id}"`)
      if (tries > 0) await this.#clock.sleep(50)
      for (const { Id } of found) await this.#removeContainer(Id)
    }
    const { stateDirectory } = (await this.#notes.read(id)) ?? {}
    for (const file of stateDirectory === undefined ? [] : await readdir(stateDirectory).catch(() => []))
      if (isPositionFile(file)) await rm(join(stateDirectory ?? '', file), { force: true })
    await this.#notes.remove(id)
  }

  async images(): Promise<ImageUse[]> {
    return this.#images.list()
  }

  async evict(budgetBytes: number): Promise<string[]> {
    return this.#images.evict(budgetBytes, await this.#notes.imagesInUse())
  }

  async #startOrAdopt(plan: TaskPlan, signal: AbortSignal): Promise<Handle> {
    const there = await inspectContainer(this.#client, containerName(plan))
    if (there && !isUnborn(there)) return this.#handle(plan, there)
    // Of an attempt that was broken off before its task ran.
    if (there) await this.#removeContainer(there.Id)
    signal.throwIfAborted()
    const image = await this.#preparedImage(plan, signal)
    try {
      return await this.#handle(plan, await this.#launch(plan, image, signal))
    } catch (error) {
      await this.#removeContainer(containerName(plan)).catch(() => {})
      signal.throwIfAborted()
      throw error instanceof EngineError ? startFault(plan, error.message) : error
    }
  }

  async #launch(plan: TaskPlan, image: EngineImage, signal: AbortSignal): Promise<ContainerState> {
    const { Entrypoint, Cmd, WorkingDir } = image.Config ?? {}
    // Refuses what has nothing to run; the engine knows the image's own part itself.
    argumentsOf(plan, { entrypoint: Entrypoint ?? [], command: Cmd ?? [] })
    const workingDirectory = workingDirectoryOf(plan, WorkingDir ?? '')
    const hostname = settingsOf(plan).hostname ?? plan.allocation
    const body = createBody({ plan, imageId: image.Id, workingDirectory, hostname, engine: this.#engine })
    const name = containerName(plan)
    await this.#client.call('POST', `/containers/create?name=${name}`, { body, signal })
    await this.#client.call('POST', `/containers/${name}/start`, { signal })
    const state = await inspectContainer(this.#client, name)
    if (state === undefined) throw startFault(plan, 'somebody removed it at once')
    if (isUnborn(state)) throw startFault(plan, state.State.Error)
    return state
  }

  async #handle(plan: TaskPlan, state: ContainerState): Promise<Handle> {
    const client = this.#client
    const clock = this.#clock
    const output = await OutputCopy.open({
      ...{ client, containerId: state.Id, output: plan.output },
      positionFile: join(plan.stateDirectory, positionFile(plan)),
    })
    const guest = new EngineGuest({ client, clock, containerId: state.Id })
    return new EngineHandle({ client, clock, state, output, guest })
  }

  async #removeContainer(name: string): Promise<void> {
    try {
      await this.#client.call('DELETE', `/containers/${name}?force=1&v=1`)
    } catch (error) {
      // Gone, or being removed by somebody else.
      if (error instanceof EngineError && (error.status === 404 || error.status === 409)) return
      throw error
    }
  }

  /** The image that `prepare` noted; when an attempt is begun again after a crash it must not be another. */
  async #preparedImage(plan: TaskPlan, signal: AbortSignal): Promise<EngineImage> {
    const note = await this.#notes.read(plan.id)
    const image = note && note.name === imageOf(plan) ? await this.#images.inspect(note.image) : undefined
    return image ?? this.#image(plan, { signal, progress: () => {} })
  }

  async #image(plan: TaskPlan, { signal, progress }: PrepareOptions): Promise<EngineImage> {
    const { pull, credentials } = plan.spec
    const name = imageOf(plan)
    const { image, release } = await this.#images.obtain(name, { pull, credentials, signal, progress })
    await this.#notes.write(plan.id, { stateDirectory: plan.stateDirectory, name, image: image.Id }, release)
    return image
  }
}

function positionFile({ attempt }: TaskPlan): string {
  return `container-${attempt}.output.json`
}

function isPositionFile(name: string): boolean {
  return /^container-\d+\.output\.json$/.test(name)
}

const ContainerList = z.array(z.object({ Id: z.string().regex(/^[0-9a-f]+$/) }))
