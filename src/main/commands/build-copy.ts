import { type CopyReport, copyBuild } from '../../blocks/operations/copy.ts'
import type { Cli, Given } from '../../cli/cli.ts'
import { textOption } from '../../cli/options.ts'
import { print } from '../../cli/output/print.ts'
import { facts } from '../../cli/output/table.ts'
import { counted } from '../../cli/output/text.ts'
import { Fault } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import { formatDuration, formatSize } from '../../model/quantity.ts'
import { findBuild } from '../builds/find-build.ts'
import { slowProgress } from '../builds/progress.ts'
import { type BuildStore, openBuildStore } from '../builds/store.ts'
import { writeToStore } from '../builds/write-to-store.ts'

/** How often a copy begins again when a collection took what it had just copied. */
const attempts = 3

/** `tutti build copy`: from one store to another, what is not there yet. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const [fromText, toText] = [textOption(options, 'from'), textOption(options, 'to')]
  if (fromText === undefined && toText === undefined)
    throw new Fault('invalid', 'say where to copy it with --to, or where it comes from with --from')
  const from = await openBuildStore(cli, fromText)
  const to = await openBuildStore(cli, toText, { mustExist: false })
  if (from.objects.url === to.objects.url) throw new Fault('invalid', `both stores are ${from.objects.url}`)
  const id = await findBuild(cli, from, args[0] ?? '', { context: textOption(options, 'context') })
  const reference = textOption(options, 'reference') ?? `build/${id}`
  const began = cli.clock.monotonic()
  const report = await copy(cli, { from, to, id, reference })
  const ms = Math.round(cli.clock.monotonic() - began)
  const skippedChunks = report.presentChunks
  await print(cli, options.output, {
    value: { build: id, from: from.objects.url, to: to.objects.url, reference, ms, ...report },
    names: () => [id],
    table: () =>
      facts(cli.stdout, [
        ['build', id],
        ['to', to.objects.url],
        ['name', reference],
        [
          'copied',
          `${formatSize(report.copiedBytes)} in ${counted(report.copiedPacks + report.madePacks, 'pack')}, ${formatDuration(ms)}`,
        ],
        [
          'skipped',
          `${formatSize(report.presentBytes)}: ${skippedChunks} of ${counted(report.chunks, 'chunk')} ${report.chunks === 1 ? 'was' : 'were'} there`,
        ],
      ]),
  })
  if (toText === undefined && reference === `build/${id}`)
    cli.stderr.write(`"tutti build import ${id}" lets sandboxes be made of it, if an agent runs here\n`)
}

async function copy(
  cli: Cli,
  { from, to, id, reference }: { from: BuildStore; to: BuildStore; id: BuildId; reference: string },
): Promise<CopyReport> {
  using shown = slowProgress(cli)
  await using target = await writeToStore(cli, to)
  const onProgress = (bytes: number) => shown.show(() => `copied ${formatSize(bytes)}`)
  for (let attempt = 1; ; attempt++) {
    try {
      return await copyBuild(from.source, target.objects, id, { reference, onProgress, signal: cli.signal })
    } catch (error) {
      const wasTaken = error instanceof Fault && error.message.endsWith(`is missing in ${to.objects.url}`)
      if (!wasTaken || attempt === attempts) throw error
    }
  }
}
