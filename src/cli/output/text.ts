import { styleText } from 'node:util'
import type { Output } from '../cli.ts'

export type Tone = 'good' | 'bad' | 'busy' | 'faint' | 'strong' | 'plain'

const styles = { good: 'green', bad: 'red', busy: 'yellow', faint: 'gray', strong: 'bold' } as const

/** Coloured where `out` is a terminal that wants colours; NO_COLOR and FORCE_COLOR are honoured. */
export function paint(out: Output, tone: Tone, text: string): string {
  return tone === 'plain' ? text : styleText(styles[tone], text, { stream: out })
}

/** On one line, and unable to move the cursor: what a task or another machine said is not ours to trust. */
export function oneLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
  return text.replace(/[\u0000-\u001f\u007f-\u009f]+/g, ' ').trim()
}

/** `1 build`, `2 builds`. */
export function counted(count: number, noun: string, many = `${noun}s`): string {
  return `${count} ${count === 1 ? noun : many}`
}

/** How long ago, as one short word. */
export function age(now: number, then: number): string {
  const seconds = Math.max(0, Math.round((now - then) / 1000))
  if (seconds < 120) return `${seconds}s`
  if (seconds < 2 * 3600) return `${Math.floor(seconds / 60)}m`
  if (seconds < 2 * 86_400) return `${Math.floor(seconds / 3600)}h`
  return `${Math.floor(seconds / 86_400)}d`
}

/** A moment as people of this machine read it. */
export function moment(ms: number): string {
  return new Date(ms)
    .toISOString()
    .replace('T', ' ')
    .replace(/\.\d+Z$/, 'Z')
}
