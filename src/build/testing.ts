import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { kernelRoots } from '../../test/fixtures/machines.ts'
import type { LocalContentStore } from '../blocks/open.ts'
import { connectBlockServer } from '../blocks/server/client.ts'
import { serveBlocks } from '../blocks/server/server.ts'
import { openTestStore } from '../blocks/testing.ts'
import { connectGuest } from '../guest/channel/connect.ts'
import { agentPath } from '../guest/channel/testing.ts'
import { ImageStore } from '../images/store.ts'
import { silentLog } from '../kit/log.ts'
import { systemClock } from '../kit/system-clock.ts'
import { systemRandom } from '../kit/system-random.ts'
import { BuildId, encodeId } from '../model/ids.ts'
import { packContext } from '../recipe/context/pack-context.ts'
import { Recipe } from '../recipe/recipe.ts'
import { bootFiles } from '../vmm/boot/boot-files.ts'
import { createQemu } from '../vmm/qemu/qemu.ts'
import type { Vmm } from '../vmm/vmm.ts'
import { type BuildTemplateOptions, buildTemplate } from './build-template.ts'
import type { BuildParts, BuildProgress } from './parts.ts'

const arch = process.arch === 'arm64' ? 'arm64' : 'amd64'

/** Everything that builds stand on, real, in a directory of its own. */
export interface TestBuilder extends AsyncDisposable {
  readonly directory: string
  readonly content: LocalContentStore
  readonly parts: BuildParts
  readonly vmm: Vmm
  /** Builds a template and gives what was told of it. Small machines, unless the recipe says otherwise. */
  build(
    recipe: Partial<typeof Recipe._zod.input> & Pick<typeof Recipe._zod.input, 'from'>,
    options?: TestBuild,
  ): Promise<TestBuilt>
}

export interface TestBuild
  extends Partial<
    Pick<BuildTemplateOptions, 'build' | 'from' | 'noCache' | 'credentials' | 'secrets' | 'signal' | 'template'>
  > {
  /** Directory with the files of COPY. */
  context?: string
  progress?: (entry: BuildProgress) => void
}

export interface TestBuilt {
  manifest: Awaited<ReturnType<typeof buildTemplate>>
  log: BuildProgress[]
}

export async function openTestBuilder(): Promise<TestBuilder> {
  await using stack = new AsyncDisposableStack()
  // Short, because of sockets.
  const directory = await mkdtemp(join(tmpdir(), 'tb-'))
  stack.defer(() => rm(directory, { recursive: true, force: true }))
  const content = stack.use(await openTestStore(join(directory, 'content')))
  const socket = join(directory, 's')
  stack.use(await serveBlocks({ directory: join(directory, 'server'), socket, content, clock: systemClock }))
  const blocks = stack.use(await connectBlockServer({ socket, signal: AbortSignal.timeout(10_000) }))
  const clock = systemClock
  const random = systemRandom
  const vmm = createQemu({ directory: join(directory, 'qemu'), kernelRoots, clock, log: silentLog })
  const images = new ImageStore({ directory: join(directory, 'images'), clock, architecture: arch })
  await mkdir(join(directory, 'w'))
  const parts: BuildParts = {
    ...{ blocks, vmm, images, clock, random, log: silentLog },
    kernel: (wanted) =>
      bootFiles({
        arch: wanted,
        roots: kernelRoots,
        path: process.env['TUTTI_KERNEL'],
        init: agentPath,
        directory: join(directory, 'boot'),
      }),
    connect: (path, { token, signal }) => connectGuest({ socket: path, token, random, clock, signal }),
    cachesDirectory: join(directory, 'caches'),
    directory: join(directory, 'w'),
  }
  const owned = stack.move()
  return {
    directory,
    content,
    parts,
    vmm,
    async build(given, options = {}) {
      const recipe = Recipe.parse({ steps: [], memoryMiB: 128, diskMiB: 256, ...given })
      const log: BuildProgress[] = []
      const context =
        options.context === undefined
          ? undefined
          : await packContext(options.context, recipe.steps, { whole: recipe.wholeContext })
      const manifest = await buildTemplate({
        recipe,
        context: context?.stream ?? (options.context === undefined ? undefined : Readable.from([])),
        build: options.build ?? BuildId.parse(encodeId(random.bytes(10))),
        template: options.template ?? 'test',
        from: options.from,
        noCache: options.noCache ?? false,
        credentials: options.credentials,
        secrets: options.secrets,
        parts,
        progress: (entry) => {
          log.push(entry)
          options.progress?.(entry)
        },
        signal: options.signal ?? AbortSignal.timeout(300_000),
      })
      return { manifest, log }
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}
