import { formatParts } from '../expand.ts'
import { addStep, type Reading } from './reading.ts'
import type { Instruction } from './split-instructions.ts'
import { type Flag, findOpenQuote, readJsonForm, splitFlags, splitWords } from './words.ts'

/** `COPY [flags] source… target`, and ADD, in words or as a JSON list. */
export function readCopy(instruction: Instruction, reading: Reading, { unpack }: { unpack: boolean }): void {
  const { arguments: given, keyword, position, heredocs } = instruction
  const { mistakes, scope } = reading
  const before = mistakes.places.length
  const { flags, rest } = splitFlags(given.text)
  const list = readJsonForm(given.text.slice(rest))
  const open = list ? undefined : findOpenQuote(given.text)
  if (open !== undefined) {
    mistakes.add(given.at(open), `this quote ${given.text.charAt(open)} is not closed`)
    return
  }
  const words = list
    ? list.map((text) => ({ text: quoted(text), start: rest }))
    : splitWords(given.text.slice(rest)).map(({ text, start }) => ({ text, start: rest + start }))
  for (const { position: place, name } of heredocs)
    mistakes.add(place, `${keyword} takes files of the build context; write <<${name} with RUN cat`)
  if (words.length < 2)
    mistakes.add(position, `${keyword} needs at least a source and a target, such as ${keyword} app/ /app/`)
  const resolved = words.map(({ text, start }) => ({
    start,
    text: formatParts(scope.resolve(text, (offset) => given.at(list ? start : start + offset), mistakes)),
  }))
  const sources = resolved.slice(0, -1)
  const to = resolved.at(-1)?.text ?? ''
  for (const { text, start } of sources) {
    if (/^(https?|ftp):\/\/|^git@|\.git(#|$)/.test(text))
      mistakes.add(given.at(start), `${keyword} takes no URL here; fetch "${text.slice(0, 100)}" in a RUN step`)
  }
  if (sources.length > 1 && !/[/]$|^\.\.?$/.test(to))
    mistakes.add(
      given.at(resolved.at(-1)?.start ?? 0),
      `with several sources the target is a directory and ends with "/", as in "${to}/"`,
    )
  const settings = readCopyFlags(flags, instruction, reading)
  if (mistakes.places.length > before) return
  addStep(reading, instruction, { kind: 'copy', sources: sources.map(({ text }) => text), to, unpack, ...settings })
}

function readCopyFlags(flags: readonly Flag[], { arguments: given, keyword }: Instruction, reading: Reading) {
  const settings: { owner?: string; mode?: number } = {}
  for (const { name, value = '', start } of flags) {
    const wrong = (message: string) => reading.mistakes.add(given.at(start), message)
    const text = formatParts(
      reading.scope.resolve(value, (offset) => given.at(start + name.length + 3 + offset), reading.mistakes),
    )
    if (name === 'chown') {
      if (text === '' || text.length > 100) wrong('--chown needs a user, or user:group')
      else settings.owner = text
    } else if (name === 'chmod') {
      if (/^[0-7]{3,4}$/.test(text)) settings.mode = Number.parseInt(text, 8)
      else wrong(`--chmod needs an octal mode such as 755, not "${text}"`)
    } else if (name === 'from')
      wrong(
        '--from copies out of another stage or image, and a template is built in one stage; bring the files in the build context',
      )
    else if (name === 'link') reading.notes.add(given.at(start), '--link changes nothing here')
    else wrong(`${keyword} has no flag --${name} here; it has --chown and --chmod`)
  }
  return settings
}

/** A string of a JSON list: quotes and blanks in it are its own, variables are not. */
function quoted(text: string): string {
  return text.replace(/[\\"'\s]/g, '\\$&')
}
