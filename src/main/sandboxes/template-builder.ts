import type { BlockList } from 'node:net'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import type { TemplateBuilder } from '../../agent/sandboxes/template-builder.ts'
import { buildTemplate } from '../../build/build-template.ts'
import type { BuildParts, BuildProgress } from '../../build/parts.ts'
import { ImageStore } from '../../images/store.ts'
import { Gate } from '../../kit/gate.ts'
import { Fault, StepFault, sentence } from '../../model/fault.ts'
import { needsContext, Recipe } from '../../recipe/recipe.ts'
import type { Parts } from '../../sandboxes/parts.ts'
import type { BuildLine } from '../../wire/sandbox-answers.ts'

export interface TemplateBuilderOptions
  extends Pick<Parts, 'blocks' | 'vmm' | 'network' | 'connect' | 'boot' | 'clock' | 'random' | 'log'> {
  directory: string
  /** Where images are kept. */
  imagesDirectory: string
  arch: 'amd64' | 'arm64'
  authFile: string | undefined
  /** Private addresses that ADD may fetch from. */
  fetchFrom: BlockList | undefined
}

/** So many builds go on at the same time on one node, and so many wait for their turn. */
const atATime = 1
const mostWaiting = 20

/** Makes templates on this node for whoever asks over a `build` stream. */
export function templateBuilder(options: TemplateBuilderOptions): TemplateBuilder {
  const { blocks, vmm, network, connect, boot, clock, random, log, directory, arch } = options
  const images = new ImageStore({
    directory: options.imagesDirectory,
    clock,
    architecture: arch,
    authFile: options.authFile,
  })
  const gate = new Gate({ places: atATime, mostWaiting })
  const parts: BuildParts = {
    ...{ blocks, vmm, images, network, clock, random, log, directory: join(directory, 'w') },
    fetchFrom: options.fetchFrom,
    cachesDirectory: join(directory, 'caches'),
    kernel: async () => boot,
    connect: (channel, { token = '', signal }) => connect({ channel }, { token, signal }),
  }
  return {
    async serve({ build, template, recipe: given, noCache, from, credentials, secrets }, stream, { signal }) {
      const recipe = Recipe.safeParse(given)
      if (!recipe.success) {
        const [issue] = recipe.error.issues
        throw new Fault('invalid', `the recipe is not valid: ${issue?.path.join('.')}: ${issue?.message}`)
      }
      using place = await gate.enter({ signal })
      if (!place) throw new Fault('exhausted', `${mostWaiting} builds wait on this node already; try again later`)
      const say = (line: BuildLine) => {
        if (!stream.destroyed) stream.write(`${JSON.stringify(line)}\n`)
      }
      try {
        const { machine, disk, addedBytes, snapshot } = await buildTemplate({
          ...{
            recipe: recipe.data,
            context: contextOf(recipe.data, stream),
            build,
            template,
            from,
            noCache,
            credentials,
            secrets,
          },
          ...{ parts, signal, progress: (entry) => say({ log: lineOf(entry) }) },
        })
        const diskMiB = Math.ceil(disk.size / 2 ** 20)
        say({ built: { machine, diskMiB, addedBytes, ...(snapshot ? { compat: snapshot.compat } : {}) } })
      } catch (error) {
        const fault = Fault.from(error)
        if (fault.code === 'internal') log.error({ err: error, build }, 'a template could not be built')
        const message = sentence(fault).slice(0, 10_000)
        say({ fault: { code: fault.code, message, ...(fault instanceof StepFault ? { step: true } : {}) } })
      }
      stream.end()
    },
    async adopt(build) {
      const { signal } = new AbortController()
      const { manifest } = await blocks.ask('manifest', { build }, { signal })
      await blocks.ask('setReference', { name: `build/${build}`, build }, { signal })
      const { reason, parent, createdAt, machine, disk, addedBytes, snapshot } = manifest
      const diskMiB = Math.ceil(disk.size / 2 ** 20)
      return { reason, parent, createdAt, machine, diskMiB, addedBytes, compat: snapshot?.compat ?? '' }
    },
    async forget(build) {
      await blocks.ask('deleteReference', { name: `build/${build}` }, { signal: new AbortController().signal })
    },
  }
}

/** What comes on the stream, for recipes that copy from it. */
function contextOf(recipe: Recipe, stream: Duplex): Duplex | undefined {
  if (needsContext(recipe)) return stream
  stream.resume()
  return undefined
}

function lineOf({ at, level, step, message }: BuildProgress): Extract<BuildLine, { log: unknown }>['log'] {
  return {
    at: Math.round(at),
    level: level === 'warn' ? 'warning' : level === 'output' ? 'info' : level,
    step: Number.parseInt(step, 10) || 0,
    message: message.slice(0, 16_000),
  }
}
