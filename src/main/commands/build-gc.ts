import { defaultGraceMs, defaultLayerAgeMs } from '../../blocks/operations/collect.ts'
import { type CleanOptions, collectAndRepack } from '../../blocks/operations/collect-and-repack.ts'
import { listBuilds } from '../../blocks/operations/list.ts'
import { defaultMaxUnused, type RepackReport } from '../../blocks/operations/repack.ts'
import { readCondemned } from '../../blocks/store/condemned.ts'
import type { Cli, Given } from '../../cli/cli.ts'
import { durationOption, flagOption, shareOption, textOption } from '../../cli/options.ts'
import { print } from '../../cli/output/print.ts'
import { table } from '../../cli/output/table.ts'
import { counted, moment, paint, type Tone } from '../../cli/output/text.ts'
import { formatDuration, formatSize } from '../../model/quantity.ts'
import { type BuildStore, openBuildStore } from '../builds/store.ts'
import { type Collected, writeToStore } from '../builds/write-to-store.ts'

const tones: Record<Fate, Tone> = { kept: 'good', waiting: 'busy', removed: 'bad' }
type Fate = 'kept' | 'waiting' | 'removed'

/**
 * `tutti build gc`: removes what no name leads to, and says of every build what became of it and why; and rewrites packs that
 * hold much garbage, if that is asked for.
 */
export async function run(cli: Cli, { options }: Given): Promise<number> {
  const store = await openBuildStore(cli, textOption(options, 'store'))
  const dryRun = flagOption(options, 'dryRun')
  const graceMs = durationOption(options, 'grace') ?? defaultGraceMs
  const layers = durationOption(options, 'layers')
  const layerAgeMs = layers ?? defaultLayerAgeMs
  const maxUnused = shareOption(options, 'maxUnused') ?? (flagOption(options, 'repack') ? defaultMaxUnused : undefined)
  const { builds } = await listBuilds(store.objects)
  const report = await collectIn(cli, store, {
    ...{ graceMs, dryRun },
    ...(layers === undefined ? {} : { layerAgeMs }),
    ...(maxUnused === undefined ? {} : { maxUnused }),
  })
  const since = await readCondemned(store.objects)
  const removed = new Set(report.removed.builds)
  const waiting = new Set(report.waiting.builds)
  const unused = new Set(report.layers?.removed)
  const fates = builds.map(({ id, references: all, addedBytes }) => {
    const references = all.filter((name) => !unused.has(name))
    const lead =
      all.length > references.length ? `no build has used it for ${formatDuration(layerAgeMs)}` : 'no name leads to it'
    const fate: Fate = removed.has(id) ? 'removed' : waiting.has(id) ? 'waiting' : 'kept'
    const due = (since.get(`builds/${id}.json`) ?? cli.clock.now()) + graceMs
    const why =
      fate === 'kept'
        ? `named ${references.join(', ') || 'just now'}`
        : fate === 'removed'
          ? lead
          : `${lead}; may go from ${moment(due)} on`
    return { id, fate, references, addedBytes, why, ...(fate === 'waiting' ? { dueAt: due } : {}) }
  })
  await print(cli, options.output, {
    value: { store: store.objects.url, graceMs, ...report, fates },
    names: () => report.removed.builds,
    table: () => {
      const rows = fates.map(({ id, fate, addedBytes, why }) => [
        id,
        { text: fate === 'removed' && dryRun ? 'would go' : fate, tone: tones[fate] },
        formatSize(addedBytes),
        why,
      ])
      const amount = (builds: number, packs: number) => `${counted(builds, 'build')} and ${counted(packs, 'pack')}`
      const list = rows.length === 0 ? '' : `${table(cli.stdout, ['BUILD', 'FATE', 'ADDED', 'WHY'], rows)}\n`
      const { kept } = report
      const sum = (what: { builds: readonly unknown[]; packs: readonly unknown[]; bytes: number }) =>
        what.builds.length + what.packs.length === 0
          ? 'nothing'
          : `${amount(what.builds.length, what.packs.length)}, ${formatSize(what.bytes)}`
      return [
        list,
        `${dryRun ? 'would free' : 'freed'}: ${sum(report.removed)}\n`,
        `waiting: ${sum(report.waiting)}\n`,
        kept.builds === 0
          ? ''
          : `kept: ${amount(kept.builds, kept.packs)}, ${formatSize(kept.bytes)}, by ${counted(report.references, 'name')}\n`,
        report.repacked ? `${describeRepacking(report.repacked, { dryRun, from: cli.clock.now() + graceMs })}\n` : '',
      ].join('')
    },
  })
  const problems = new Set([...report.problems, ...(report.repacked?.problems ?? [])])
  for (const problem of problems) cli.stderr.write(`${paint(cli.stderr, 'bad', 'tutti:')} ${problem}\n`)
  return problems.size > 0 ? 1 : 0
}

function describeRepacking(report: RepackReport, { dryRun, from }: { dryRun: boolean; from: number }): string {
  const { packs, bytes, madeBytes, unusedBytes, keptBytes } = report
  const did = dryRun ? 'would repack' : 'repacked'
  if (packs.length === 0) return `${did}: nothing, ${formatSize(unusedBytes)} of ${formatSize(keptBytes)} is garbage`
  const what = `${counted(packs.length, 'pack')}, ${formatSize(bytes)}, of which ${formatSize(madeBytes)} is needed`
  return `${did}: ${what}; a collection from ${moment(from)} on frees the old ones`
}

async function collectIn(cli: Cli, store: BuildStore, options: Omit<CleanOptions, 'clock'>): Promise<Collected> {
  // To look needs nobody's leave.
  if (options.dryRun) return collectAndRepack(store.objects, { clock: cli.clock, ...options })
  await using target = await writeToStore(cli, store)
  return await target.collect(options)
}
