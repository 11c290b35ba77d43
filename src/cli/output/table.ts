import type { Output } from '../cli.ts'
import { oneLine, paint, type Tone } from './text.ts'

export interface Cell {
  text: string
  tone?: Tone
}
export type Row = readonly (Cell | string | number)[]

/** Columns as wide as what is in them; on a terminal the last one is cut where the line ends. */
export function table(out: Output, head: readonly string[], rows: readonly Row[]): string {
  const cells = rows.map((row) => row.map(toCell))
  const widths = head.map((title, column) =>
    Math.max(width(title), ...cells.map((row) => width(row[column]?.text ?? ''))),
  )
  const room = out.isTTY && out.columns ? out.columns : Number.POSITIVE_INFINITY
  const lines = [head.map((text): Cell => ({ text, tone: 'faint' })), ...cells]
  return lines.map((row) => line(out, row, widths, room)).join('')
}

/** `name: value` lines, values under each other. */
export function facts(out: Output, pairs: readonly (readonly [string, Cell | string | number])[]): string {
  const widest = Math.max(...pairs.map(([name]) => name.length))
  return pairs
    .map(([name, value]) => {
      const { text, tone = 'plain' } = toCell(value)
      return `${paint(out, 'faint', name.padEnd(widest))}  ${paint(out, tone, text)}\n`
    })
    .join('')
}

function line(out: Output, row: readonly Cell[], widths: readonly number[], room: number): string {
  let left = room
  let text = ''
  row.forEach((cell, column) => {
    const last = column === row.length - 1
    const shown = last ? cut(cell.text, left) : cell.text
    text += paint(out, cell.tone ?? 'plain', shown)
    if (last) return
    const full = (widths[column] ?? 0) + 2
    text += ' '.repeat(full - width(shown))
    left -= full
  })
  return `${text.trimEnd()}\n`
}

function toCell(value: Cell | string | number): Cell {
  const cell = typeof value === 'object' ? value : { text: String(value) }
  return { ...cell, text: oneLine(cell.text) }
}

function cut(text: string, room: number): string {
  return width(text) <= room ? text : `${[...text].slice(0, Math.max(0, room - 1)).join('')}…`
}

function width(text: string): number {
  return [...text].length
}
