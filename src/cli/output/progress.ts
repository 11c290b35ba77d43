import type { Cli } from '../cli.ts'
import { oneLine, paint, type Tone } from './text.ts'

/**
 * What is going on, on standard error: one line that is written over on a terminal, a line per change elsewhere.
 * Disposing removes the line. `quiet`: nothing but what is said, where there is no terminal.
 */
export interface Progress extends Disposable {
  show(text: string): void
  /** A line that stays. */
  say(text: string, tone?: Tone): void
}

export function progress(cli: Cli, { quiet = false }: { quiet?: boolean } = {}): Progress {
  const { stderr } = cli
  let shown = ''
  const wipe = () => {
    if (stderr.isTTY && shown !== '') stderr.write('\r\u001b[2K')
  }
  const draw = () => {
    if (!stderr.isTTY || shown === '') return
    stderr.write(paint(stderr, 'faint', [...shown].slice(0, (stderr.columns ?? 80) - 1).join('')))
  }
  return {
    show: (text) => {
      const line = oneLine(text)
      if (line === shown) return
      wipe()
      shown = line
      if (stderr.isTTY) draw()
      else if (!quiet) stderr.write(`${line}\n`)
    },
    say: (text, tone = 'plain') => {
      wipe()
      stderr.write(`${paint(stderr, tone, oneLine(text))}\n`)
      draw()
    },
    [Symbol.dispose]: () => {
      wipe()
      shown = ''
    },
  }
}
