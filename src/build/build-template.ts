import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import type { Manifest } from '../blocks/manifest.ts'
import type { Credentials } from '../images/fetch.ts'
import type { Image } from '../images/store.ts'
import { Fault, sentence } from '../model/fault.ts'
import type { BuildId } from '../model/ids.ts'
import type { MachineShape } from '../model/sandbox.ts'
import type { Recipe } from '../recipe/recipe.ts'
import { imageObtainer } from './begin-from.ts'
import { receiveContext } from './context/receive-context.ts'
import type { BuildParts, BuildProgress } from './parts.ts'
import { saveTemplate } from './save-template.ts'
import { planStages } from './stages/plan-stages.ts'
import { takeStages } from './stages/take-stages.ts'

export interface BuildTemplateOptions {
  recipe: Recipe
  /** The build context as a tar archive; absent when no step copies. */
  context: Readable | undefined
  /** The build's id to be. */
  build: BuildId
  /** The template's name. */
  template: string
  /** The build that the recipe's `from.template` stands for. */
  from?: BuildId | undefined
  /** Takes no step from earlier builds, and fetches the image anew. */
  noCache: boolean
  credentials?: Credentials | undefined
  /** By id, in base64: for `RUN --mount=type=secret`. */
  secrets?: Readonly<Record<string, string>> | undefined
  parts: BuildParts
  progress: (entry: BuildProgress) => void
  signal: AbortSignal
}

/**
 * From a recipe to a build: a disk of the image, the steps in a machine booted from it, and a snapshot of a machine in
 * which the start command is ready. What each step leaves is kept as a layer and found again by the next build. Whatever
 * goes wrong or is called off, nothing stays but whole layers, and no template that is half made has a name.
 */
export async function buildTemplate(options: BuildTemplateOptions): Promise<Manifest> {
  const { recipe, build, parts, signal } = options
  signal.throwIfAborted()
  const report = (step: string, message: string, level: BuildProgress['level'] = 'info') =>
    options.progress({ at: parts.clock.now(), level, step, message })
  const directory = join(parts.directory, `b-${build}`)
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 })
    const machine = await machineOf(recipe, parts)
    await using context = await receiveContext(options.context, { directory: join(directory, 'context'), signal })
    using claims = new DisposableStack()
    const obtainImage = imageObtainer(options, { directory, machine }, claims, report)
    const scope = { ...options, machine, directory, tree: context.tree, report, obtainImage, made: new Set<string>() }
    const taken = await takeStages(scope, await planStages(scope))
    const asked = { ...recipe, ready: recipe.ready ?? taken.base.triggers.ready }
    const ready = asked.ready && { ready: asked.ready.command }
    return await saveTemplate({ ...scope, ...taken, recipe: asked, defaults: { ...taken.defaults, ...ready } })
  } catch (error) {
    signal.throwIfAborted()
    const fault = Fault.from(error)
    report('failed', sentence(fault), 'error')
    throw fault
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

/** What all parts of a build share. */
export interface BuildScope extends BuildTemplateOptions {
  machine: MachineShape
  /** Of this build alone; gone when it ends. */
  directory: string
  tree: Awaited<ReturnType<typeof receiveContext>>['tree']
  report: (step: string, message: string, level?: BuildProgress['level']) => void
  obtainImage(name: string): Promise<Image>
  /** Keys of the layers that this build has stored: taken again by its later stages, whatever `noCache` says. */
  made: Set<string>
}

async function machineOf(recipe: Recipe, { vmm }: BuildParts): Promise<MachineShape> {
  const facts = await vmm.facts()
  if (!facts.healthy)
    throw new Fault(
      'unavailable',
      `no machine can be started on this node: ${facts.reason ?? 'its VMM is not healthy'}${facts.remedy === undefined ? '' : `; ${facts.remedy}`}`,
    )
  if (recipe.arch !== undefined && recipe.arch !== facts.arch)
    throw new Fault('invalid', `the recipe is for ${recipe.arch}, and this node is ${facts.arch}`)
  return { arch: facts.arch, cpus: recipe.cpus, memoryMiB: recipe.memoryMiB }
}
