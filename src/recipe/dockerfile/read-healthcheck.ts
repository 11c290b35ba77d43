import { parseDuration } from '../../model/quantity.ts'
import type { Reading } from './reading.ts'
import type { Instruction } from './split-instructions.ts'
import { readJsonForm, splitFlags } from './words.ts'

/** `HEALTHCHECK [flags] CMD …` is what tells that the start command is ready; `NONE` takes it back. */
export function readHealthcheck({ arguments: given, position }: Instruction, reading: Reading): void {
  const { mistakes, notes } = reading
  const { flags, rest } = splitFlags(given.text)
  const [, kind = '', line = ''] = /^(\S*)\s*(.*)$/s.exec(given.text.slice(rest)) ?? []
  for (const { name, value = '', start } of flags) {
    if (!['interval', 'timeout', 'start-period', 'start-interval', 'retries'].includes(name))
      mistakes.add(given.at(start), `HEALTHCHECK has no flag --${name}`)
    else if (name !== 'retries' && parseDuration(value) === undefined)
      mistakes.add(given.at(start), `"${value}" is not a duration; write it like 30s`)
  }
  if (kind.toUpperCase() === 'NONE' && line === '') {
    delete reading.stage.ready
    return
  }
  if (kind.toUpperCase() !== 'CMD' || line === '') {
    mistakes.add(given.at(rest), 'HEALTHCHECK is followed by CMD and a command, or by NONE')
    return
  }
  const words = readJsonForm(line)
  reading.stage.ready = { command: words ? words.map(quoteForShell).join(' ') : line, timeoutMs: 300_000 }
  notes.add(position, 'HEALTHCHECK is asked until it succeeds before the template is saved, and not afterwards')
}

function quoteForShell(word: string): string {
  return /^[\w./:=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`
}
