import type { JobSpec } from '../model/job.ts'
import { askOf, roomRefusal } from './fit.ts'
import { nodeRules } from './rules/all.ts'
import type { Refusal } from './rules/rule.ts'
import type { Usage } from './usage.ts'

/** Shown at most; a cluster of a thousand machines may fail in hundreds of ways. */
const mostGroups = 6

/**
 * Why no node can take a copy, and what would help: "3 lack memory (needs 16 GiB, most free 12 GiB), 1 is draining; add
 * a node with …". The first rule that refuses a node speaks for it, so each node is counted once.
 */
export function whyNowhere(usage: Usage, spec: JobSpec): string {
  return whyRefused(usage, (row) => refusalOf(usage, row, spec))
}

/** The same for anything that is placed; `refuse` is asked of every row with a node. */
export function whyRefused(usage: Usage, refuse: (row: number) => Refusal | undefined): string {
  const groups = gather(usage, refuse)
  if (groups.length === 0) {
    return usage.rows === 0 || !hasNodes(usage)
      ? 'no node has joined yet; start an agent with "tutti agent --join TOKEN ADDRESS"'
      : 'room was there and has gone; it is tried again'
  }
  groups.sort((a, b) => b.count - a.count)
  const shown = groups.slice(0, mostGroups).map(phrase)
  const rest = groups.slice(mostGroups).reduce((sum, group) => sum + group.count, 0)
  if (rest > 0) shown.push(`${rest} more for other reasons`)
  const helps = [...new Set(groups.map((group) => group.refusal.help))].slice(0, 2)
  return `${shown.join(', ')}; ${helps.join(', or ')}`
}

interface Group {
  count: number
  /** Of the node that came nearest. */
  refusal: Refusal
}

function gather(usage: Usage, refuse: (row: number) => Refusal | undefined): Group[] {
  const groups = new Map<string, Group>()
  for (let row = 0; row < usage.rows; row += 1) {
    const refusal = usage.node(row) ? refuse(row) : undefined
    if (!refusal) continue
    const group = groups.get(refusal.words[1])
    if (!group) {
      groups.set(refusal.words[1], { count: 1, refusal })
      continue
    }
    group.count += 1
    if ((refusal.short?.free ?? 0) > (group.refusal.short?.free ?? 0)) group.refusal = refusal
  }
  return [...groups.values()]
}

function refusalOf(usage: Usage, row: number, spec: JobSpec): Refusal | undefined {
  const node = usage.node(row)
  if (!node) return undefined
  for (const rule of nodeRules) if (!rule.passes(node, spec)) return rule.refusal(node, spec)
  return roomRefusal(usage.room(row), askOf(spec))
}

function hasNodes(usage: Usage): boolean {
  for (let row = 0; row < usage.rows; row += 1) if (usage.node(row)) return true
  return false
}

function phrase({ count, refusal: { words, short } }: Group): string {
  const amounts = short ? ` (needs ${short.format(short.needs)}, most free ${short.format(short.free)})` : ''
  return `${count} ${words[count === 1 ? 0 : 1]}${amounts}`
}
