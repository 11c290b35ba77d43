import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Defaults, Manifest } from '../blocks/manifest.ts'
import { writeOwners } from '../images/owners.ts'
import { isArchive } from '../images/read-archive.ts'
import type { Image } from '../images/store.ts'
import { Fault } from '../model/fault.ts'
import { readTriggers, type Triggers } from '../recipe/dockerfile/read-triggers.ts'
import { type PlacedStep, type Stage, takesContext } from '../recipe/recipe.ts'
import type { BuildScope, BuildTemplateOptions } from './build-template.ts'
import { makeBaseLayer } from './disk/base-layer.ts'
import { findLayer, layerReference } from './layers.ts'
import { buildKey, imageKey } from './steps/plan-steps.ts'
import { defaultPath } from './steps/run-command.ts'

/** Where the steps of a stage begin. */
export interface Base {
  /** Names its disk in the chain of layers. */
  key: string
  defaults: Defaults
  entrypoint: string[]
  command: string[]
  /** What the disk is made of; absent when it is that of a template. */
  image: { name: string; image: Image } | undefined
  /** Come before the steps of the stage: the image's ONBUILD instructions. */
  triggers: Pick<Triggers, 'steps' | 'args' | 'ready'>
  /** The disk, made now unless it was made before. */
  layer(): Promise<Manifest>
}

/** What a stage begins from: an image, which is fetched if need be, or another template. `stages` are those before it. */
export async function beginFrom(scope: BuildScope, from: Stage['from'], stages: readonly string[]): Promise<Base> {
  if ('template' in from) return beginFromTemplate(scope, from.template)
  const { recipe, report } = scope
  const image = await scope.obtainImage(from.image)
  const key = imageKey(image.digest, recipe.diskMiB)
  const known = await findLayer(scope, key)
  if (known) report('image', `CACHED ${from.image} (${image.digest.slice(0, 19)})`)
  const triggers = readTriggers(image.onBuild, { image: from.image, buildArgs: recipe.buildArgs ?? {}, stages })
  const copies = triggers.steps.find(({ step }) => takesContext(step))
  if (copies && !recipe.wholeContext) throw lacksContext(from.image, copies)
  return {
    key,
    defaults: defaultsOf(image),
    entrypoint: triggers.entrypoint ?? image.entrypoint,
    // What the image's command was is meant for its own entry point.
    command: triggers.command ?? (triggers.entrypoint ? [] : image.command),
    image: { name: from.image, image },
    triggers,
    layer: async () => known ?? (await findLayer(scope, key)) ?? (await makeLayer(scope, image, from.image, key)),
  }
}

/** Whoever asked could not know that the image copies, and has sent only what the recipe itself takes. */
function lacksContext(image: string, { text }: PlacedStep): Fault {
  return new Fault(
    'invalid',
    `image "${image}" copies files of the build context ("${text.slice(0, 200)}"), which was not sent; send all of it with --whole-context`,
  )
}

async function beginFromTemplate({ from, parts, signal }: BuildScope, name: string): Promise<Base> {
  if (from === undefined) throw new Fault('not_found', `there is no template "${name}" to begin from`)
  const { manifest } = await parts.blocks.ask('manifest', { build: from }, { signal })
  const layer = async () => manifest
  // What made the other one ready is not what makes this one ready.
  const { ready: _, ...defaults } = manifest.defaults
  return {
    key: buildKey(from),
    defaults,
    entrypoint: [],
    command: [],
    image: undefined,
    triggers: { steps: [], args: {} },
    layer,
  }
}

/** Images by name, each asked for once in a build and kept from being evicted until `claims` are disposed of. */
export function imageObtainer(
  { parts, noCache, credentials, signal }: BuildTemplateOptions,
  { directory, machine }: Pick<BuildScope, 'directory' | 'machine'>,
  claims: DisposableStack,
  report: BuildScope['report'],
): BuildScope['obtainImage'] {
  const asked = new Map<string, Promise<Image>>()
  const progress = (message: string) => report('image', message)
  const obtain = async (name: string) => {
    if (name === 'scratch') return nothing(directory, machine.arch)
    const { image, release } = isArchive(name)
      ? await parts.images.load(name, { progress, signal })
      : await parts.images.obtain(name, { pull: noCache ? 'always' : 'missing', credentials, progress, signal })
    claims.defer(release)
    return image
  }
  return (name) => {
    const image = asked.get(name) ?? obtain(name)
    asked.set(name, image)
    return image
  }
}

/** An image without a file, which is what `FROM scratch` means. */
async function nothing(directory: string, architecture: string): Promise<Image> {
  const rootfs = join(directory, 'scratch', 'rootfs')
  await mkdir(rootfs, { recursive: true, mode: 0o755 })
  // Even the directory itself is not to belong to whom this process runs as.
  await writeOwners(rootfs, new Map())
  const settings = { entrypoint: [], command: [], env: [], workingDirectory: '', user: '', onBuild: [] }
  return { digest: 'scratch', architecture, os: 'linux', ...settings, blobs: [], bytes: 0, rootfs }
}

async function makeLayer(scope: BuildScope, image: Image, name: string, key: string): Promise<Manifest> {
  const { blocks, clock, random } = scope.parts
  const { machine, directory, recipe, report, signal } = scope
  return makeBaseLayer({
    ...{ blocks, clock, random, image, name, machine, directory, signal },
    diskMiB: recipe.diskMiB,
    reference: layerReference(key),
    progress: (message) => report('image', message),
  })
}

function defaultsOf(image: Image): Defaults {
  const env = Object.fromEntries(
    image.env.map((text) => {
      const equals = text.indexOf('=')
      return equals < 0 ? [text, ''] : [text.slice(0, equals), text.slice(equals + 1)]
    }),
  )
  return { env: { PATH: defaultPath, ...env }, user: image.user || 'root', cwd: image.workingDirectory || '/' }
}
