import type { FaultPlace } from '../../model/fault.ts'

const widest = 110

/** The line that a mistake is in, and a caret under the very place. Undefined where the line is not known. */
export function excerpt({ line, column = 1 }: FaultPlace, source: string | undefined): string | undefined {
  const text = line === undefined ? undefined : source?.split(/\r?\n/)[line - 1]
  if (text === undefined || text.trim() === '') return undefined
  // Tabs would put the caret in the wrong place, and control characters into the terminal.
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
  const clean = text.replace(/[\u0000-\u001f\u007f-\u009f]/g, ' ')
  const from = Math.max(0, column - 80)
  const number = String(line)
  const shown = clean.slice(from, from + widest)
  return `    ${number} | ${shown}\n    ${' '.repeat(number.length)} | ${' '.repeat(Math.max(0, column - 1 - from))}^`
}
