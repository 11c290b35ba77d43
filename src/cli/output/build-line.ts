import type { PublicBuildLine } from '../../contract/build.ts'
import type { Output } from '../cli.ts'
import { oneLine, paint } from './text.ts'

/** One line of a build, for people. */
export function buildLine(out: Output, { level, step, message }: PublicBuildLine): string {
  const tone = level === 'error' ? 'bad' : level === 'warning' ? 'busy' : 'plain'
  const where = step > 0 ? paint(out, 'faint', `${String(step).padStart(2)} `) : ''
  return `${where}${paint(out, tone, oneLine(message))}\n`
}
