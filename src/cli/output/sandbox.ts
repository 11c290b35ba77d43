import type { PublicBuild } from '../../contract/build.ts'
import type { PublicSandbox } from '../../contract/sandbox.ts'
import type { Cell } from './table.ts'
import { age, type Tone } from './text.ts'

const tones: Record<PublicSandbox['phase'], Tone> = {
  creating: 'busy',
  running: 'good',
  pausing: 'busy',
  paused: 'plain',
  resuming: 'busy',
  killed: 'faint',
  failed: 'bad',
}

export function phaseCell({ phase }: Pick<PublicSandbox, 'phase'>): Cell {
  return { text: phase, tone: tones[phase] }
}

const buildTones: Record<PublicBuild['status'], Tone> = {
  building: 'busy',
  ready: 'good',
  failed: 'bad',
  deleting: 'faint',
}

export function buildCell({ status }: Pick<PublicBuild, 'status'>): Cell {
  return { text: status, tone: buildTones[status] }
}

/** How long it still has. */
export function left(now: number, { expiresAt, onTimeout }: Pick<PublicSandbox, 'expiresAt' | 'onTimeout'>): string {
  if (expiresAt === null) return '-'
  return `${age(expiresAt, now)}, then ${onTimeout}`
}

export function egressText({ egress }: Pick<PublicSandbox, 'egress'>): string {
  if (egress.mode !== 'list') return egress.mode
  const allowed = [...egress.cidrs, ...egress.domains]
  return allowed.length === 0 ? 'deny' : `only ${allowed.join(' ')}`
}
