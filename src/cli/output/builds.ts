import type { PublicBuild } from '../../contract/build.ts'
import { formatSize } from '../../model/quantity.ts'
import type { Output } from '../cli.ts'
import { buildCell } from './sandbox.ts'
import { table } from './table.ts'
import { age } from './text.ts'

/** Builds under each other, for people. */
export function buildTable(
  out: Output,
  builds: readonly PublicBuild[],
  { now, nodeNames }: { now: number; nodeNames: ReadonlyMap<string, string> },
): string {
  return table(
    out,
    ['BUILD', 'TEMPLATE', 'STATE', 'WHY', 'MACHINE', 'ADDED', 'NODES', 'AGE', 'ERROR'],
    builds.map((build) => [
      build.id,
      build.template ?? '-',
      buildCell(build),
      build.reason,
      build.machine
        ? `${build.machine.arch} ${build.machine.cpus}×, ${formatSize(build.machine.memoryMiB * 2 ** 20)}`
        : '-',
      build.addedBytes === null ? '-' : formatSize(build.addedBytes),
      build.nodes.map((id) => nodeNames.get(id) ?? id).join(' ') || '-',
      age(now, build.createdAt),
      build.error ?? '',
    ]),
  )
}
