import type { ImageName } from '../../blocks/operations/images.ts'
import { type InspectedBuild, type InspectedImage, inspect, readRange } from '../../blocks/operations/inspect.ts'
import type { Cli, Given, Output } from '../../cli/cli.ts'
import { flagOption, textOption } from '../../cli/options.ts'
import { print } from '../../cli/output/print.ts'
import { facts, table } from '../../cli/output/table.ts'
import { counted, moment } from '../../cli/output/text.ts'
import { Fault } from '../../model/fault.ts'
import { formatSize, parseSize } from '../../model/quantity.ts'
import { drawMap } from '../builds/draw-map.ts'
import { findBuild } from '../builds/find-build.ts'
import { hexdump } from '../builds/hexdump.ts'
import { openBuildStore } from '../builds/store.ts'

/** `tutti build inspect`: what a build consists of; or some bytes of it. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const store = await openBuildStore(cli, textOption(options, 'store'))
  const range = readRangeOption(options)
  const chosen = textOption(options, 'image') as ImageName | undefined
  const id = await findBuild(cli, store, args[0] ?? '', { context: textOption(options, 'context') })
  if (range) {
    const image = chosen ?? 'disk'
    const bytes = await readRange(store.source, id, { image, ...range })
    await print(cli, options.output, {
      value: { build: id, image, offset: range.offset, length: bytes.length, base64: bytes.toString('base64') },
      names: () => [bytes.toString('hex')],
      table: () => hexdump(bytes, range.offset),
    })
    return
  }
  const inspected = await inspect(store.source, id)
  const { manifest, images } = inspected
  await print(cli, options.output, {
    value: flagOption(options, 'map') ? inspected : { manifest, images: images.map(({ runs: _, ...image }) => image) },
    names: () => [id],
    table: () => {
      const drawn = flagOption(options, 'map')
        ? images.filter(({ name }) => chosen === undefined || chosen === name)
        : []
      return describe(cli.stdout, inspected) + drawn.map((image) => `\n${drawMap(image)}`).join('')
    },
  })
}

const maxRangeBytes = 16 * 2 ** 20

function readRangeOption(options: Record<string, unknown>): { offset: number; length: number } | undefined {
  const text = textOption(options, 'range')
  if (text === undefined) return undefined
  const [offset, length, ...more] = text.split(':').map((part) => (/^\d+$/.test(part) ? Number(part) : parseSize(part)))
  if (offset === undefined || length === undefined || more.length > 0)
    throw new Fault('invalid', `--range needs OFFSET:SIZE, such as 1MiB:256B or 1024:64, not "${text}"`)
  if (length > maxRangeBytes)
    throw new Fault('invalid', `--range prints at most ${formatSize(maxRangeBytes)}; "tutti build export" writes files`)
  return { offset, length }
}

function describe(out: Output, { manifest, images }: InspectedBuild): string {
  const { id, reason, createdAt, parent, machine, snapshot, defaults, packs, addedBytes } = manifest
  const prefetch = snapshot?.prefetch.length ?? 0
  const head = facts(out, [
    ['build', id],
    ['why', reason],
    ['created', moment(createdAt)],
    ['parent', parent ?? '-'],
    ['machine', `${machine.arch}, ${machine.cpus}× CPU, ${formatSize(machine.memoryMiB * 2 ** 20)}`],
    ['starts', snapshot ? 'from its memory' : 'by booting: it is a build of a disk only'],
    ...(snapshot
      ? ([
          ['compat', snapshot.compat],
          ['guest agent', snapshot.guestAgent],
          ['prefetch', `${counted(prefetch, 'chunk')}, ${formatSize(prefetch * snapshot.memory.chunkBytes)}`],
        ] as const)
      : []),
    ['user', defaults.user],
    ['directory', defaults.cwd],
    ...Object.entries(defaults.env).map(([name, value]) => ['env', `${name}=${value}`] as const),
    ['packs', `${packs.length}; it added ${formatSize(addedBytes)}`],
  ])
  const rows = images.map((image) => [
    image.name,
    formatSize(image.size),
    formatSize(image.chunkBytes),
    image.chunks,
    image.zeroChunks,
    image.distinctChunks,
    formatSize(image.dataBytes),
    formatSize(image.storedBytes),
    `${image.ratio.toFixed(2)}×`,
    sharedText(image),
    image.packs.length,
  ])
  const columns = [
    'IMAGE',
    'SIZE',
    'CHUNK',
    'CHUNKS',
    'ZERO',
    'DISTINCT',
    'DATA',
    'STORED',
    'RATIO',
    'WITH PARENT',
    'PACKS',
  ]
  return `${head}\n${table(out, columns, rows)}`
}

function sharedText({ sharedWithParent: shared, chunks, zeroChunks }: InspectedImage): string {
  if (!shared) return '-'
  const data = chunks - zeroChunks
  return `${counted(shared.chunks, 'chunk')} (${data === 0 ? 0 : Math.round((100 * shared.chunks) / data)}%)`
}
