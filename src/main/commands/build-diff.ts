import { type Change, type DiffedImage, diff, gridLetters } from '../../blocks/operations/diff.ts'
import { sharedChunks } from '../../blocks/operations/shared.ts'
import type { Cli, Given } from '../../cli/cli.ts'
import { flagOption, textOption } from '../../cli/options.ts'
import { print } from '../../cli/output/print.ts'
import { table } from '../../cli/output/table.ts'
import { formatSize } from '../../model/quantity.ts'
import { findBuild } from '../builds/find-build.ts'
import { openBuildStore } from '../builds/store.ts'

const changes: readonly Change[] = ['same', 'changed', 'added', 'cleared', 'zero']

/** `tutti build diff`: what two builds share, and where the second differs from the first. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const context = textOption(options, 'context')
  const store = await openBuildStore(cli, textOption(options, 'store'))
  const otherText = textOption(options, 'otherStore')
  const otherStore = otherText === undefined ? store : await openBuildStore(cli, otherText)
  const from = { source: store.source, id: await findBuild(cli, store, args[0] ?? '', { context }) }
  const to = { source: otherStore.source, id: await findBuild(cli, otherStore, args[1] ?? '', { context }) }
  const images = await diff(from, to)
  const shared = await sharedChunks(from, to)
  await print(cli, options.output, {
    value: { from: from.id, to: to.id, images, shared },
    names: () =>
      images.filter(({ chunks }) => chunks.changed + chunks.added + chunks.cleared > 0).map(({ name }) => name),
    table: () => {
      const rows = images.map(({ name, chunks, bytes }) => [
        name,
        ...changes.map((change) => `${chunks[change]} (${formatSize(bytes[change])})`),
      ])
      const pictures = flagOption(options, 'draw') ? images.map(drawn).join('') : ''
      const sums = [
        ['both', shared.both],
        [`only ${from.id}`, shared.first],
        [`only ${to.id}`, shared.second],
      ] as const
      const sumRows = sums.map(([whose, { chunks, bytes }]) => [whose, chunks, formatSize(bytes)])
      return [
        `from ${from.id} to ${to.id}, in chunks (and bytes):\n`,
        table(cli.stdout, ['IMAGE', ...changes.map((change) => change.toUpperCase())], rows),
        '\n',
        table(cli.stdout, ['DIFFERENT CHUNKS OF', 'CHUNKS', 'BYTES'], sumRows),
        pictures,
      ].join('')
    },
  })
}

function drawn({ name, grid, chunksPerCell, chunkBytes }: DiffedImage): string {
  const letters = Object.entries(gridLetters).map(([change, letter]) => `${letter} ${change}`)
  const cell = chunksPerCell === 1 ? 'a chunk' : `${chunksPerCell} chunks`
  return `\n${name}: one sign for ${cell} of ${formatSize(chunkBytes)}; ${letters.join(', ')}\n${grid.map((line) => `  ${line}\n`).join('')}`
}
