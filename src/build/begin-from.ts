import type { Defaults, Manifest } from '../blocks/manifest.ts'
import { isArchive } from '../images/read-archive.ts'
import type { Image } from '../images/store.ts'
import { Fault } from '../model/fault.ts'
import type { BuildScope } from './build-template.ts'
import { makeBaseLayer } from './disk/base-layer.ts'
import { findLayer, layerReference } from './layers.ts'
import { buildKey, imageKey } from './steps/plan-steps.ts'
import { defaultPath } from './steps/run-command.ts'

/** Where the steps begin. */
export interface Base {
  /** Names its disk in the chain of layers. */
  key: string
  layer: Manifest
  defaults: Defaults
  entrypoint: string[]
  command: string[]
}

/** The disk that a recipe begins from: made of an image, unless it was made before, or that of another template. */
export async function beginFrom(scope: BuildScope): Promise<Base> {
  const { recipe, report } = scope
  const { from } = recipe
  if ('template' in from) return beginFromTemplate(scope, from.template)
  const { image, release } = await obtainImage(scope, from.image)
  try {
    const key = imageKey(image.digest, recipe.diskMiB)
    const layer = await findLayer(scope, key)
    if (layer) report('image', `CACHED ${from.image} (${image.digest.slice(0, 19)})`)
    return {
      key,
      layer: layer ?? (await makeLayer(scope, image, from.image, key)),
      defaults: defaultsOf(image),
      entrypoint: image.entrypoint,
      command: image.command,
    }
  } finally {
    release()
  }
}

async function beginFromTemplate({ from, parts, signal }: BuildScope, name: string): Promise<Base> {
  if (from === undefined) throw new Fault('not_found', `there is no template "${name}" to begin from`)
  const { manifest: layer } = await parts.blocks.ask('manifest', { build: from }, { signal })
  // What made the other one ready is not what makes this one ready.
  const { ready: _, ...defaults } = layer.defaults
  return { key: buildKey(from), layer, defaults, entrypoint: [], command: [] }
}

async function obtainImage({ parts, noCache, credentials, report, signal }: BuildScope, name: string) {
  const progress = (message: string) => report('image', message)
  if (isArchive(name)) return parts.images.load(name, { progress, signal })
  return parts.images.obtain(name, { pull: noCache ? 'always' : 'missing', credentials, progress, signal })
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
