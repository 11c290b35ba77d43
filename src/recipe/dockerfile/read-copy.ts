import { formatParts, isKnown } from '../expand.ts'
import { isUrl, type Step } from '../recipe.ts'
import { parseSymbolicMode } from '../symbolic-mode.ts'
import { parseDocument } from './parse-word.ts'
import { documentText } from './read-commands.ts'
import { readOrigin } from './read-origin.ts'
import { addStep, type Reading } from './reading.ts'
import type { Heredoc, Instruction } from './split-instructions.ts'
import { type Flag, findOpenQuote, readJsonForm, splitFlags, splitWords } from './words.ts'

type CopyStep = Extract<Step, { kind: 'copy' }>
type CopySettings = Pick<CopyStep, 'owner' | 'mode' | 'from' | 'checksum' | 'exclude' | 'parents'>

/** `COPY [flags] source… target`, and ADD, in words or as a JSON list; here-documents among the sources are files. */
export function readCopy(instruction: Instruction, reading: Reading, { unpack }: { unpack: boolean }): void {
  const { arguments: given, keyword, position, heredocs } = instruction
  const { mistakes } = reading
  const { scope } = reading.stage
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
  if (words.length < 2)
    mistakes.add(position, `${keyword} needs at least a source and a target, such as ${keyword} app/ /app/`)
  const target = words.at(-1)
  const documents = list ? [] : heredocs
  const isDocument = (text: string) => documents.some(({ word }) => word === text)
  if (target && isDocument(target.text))
    mistakes.add(given.at(target.start), `${keyword} lacks the target of the here-document ${target.text}`)
  const resolved = words
    .filter((word) => word === target || !isDocument(word.text))
    .map(({ text, start }) => ({
      start,
      text: formatParts(scope.resolve(text, (offset) => given.at(list ? start : start + offset), mistakes)),
    }))
  const sources = resolved.slice(0, -1)
  const to = resolved.at(-1)?.text ?? ''
  for (const { text, start } of sources) {
    const wrong = refuseSource(text, { keyword, unpack })
    if (wrong !== undefined) mistakes.add(given.at(start), wrong)
  }
  if (words.length > 2 && !/[/]$|^\.\.?$/.test(to))
    mistakes.add(
      given.at(resolved.at(-1)?.start ?? 0),
      `with several sources the target is a directory and ends with "/", as in "${to}/"`,
    )
  const settings = readCopyFlags(flags, instruction, reading, { unpack, sources: sources.map(({ text }) => text) })
  const inline = documents.map((document) => ({ name: document.name, text: readDocument(document, reading) }))
  if (settings.from && inline.length > 0)
    mistakes.add(position, 'a here-document lies in no stage; write it in a COPY of its own, without --from')
  if (mistakes.places.length > before) return
  addStep(reading, instruction, {
    kind: 'copy',
    sources: sources.map(({ text }) => text),
    ...(inline.length === 0 ? {} : { inline }),
    to,
    unpack,
    ...settings,
  })
}

function refuseSource(text: string, { keyword, unpack }: { keyword: string; unpack: boolean }): string | undefined {
  const shown = text.slice(0, 100)
  if (/^(git@|git:\/\/|ssh:\/\/)/.test(text) || (isUrl(text) && /\.git(#.*)?$/.test(text)))
    return `${keyword} takes no git repository here; clone "${shown}" in a RUN step, or send it with the build context`
  if (isUrl(text)) return unpack ? undefined : `COPY takes no URL, and ADD does: ADD ${shown} …`
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(text)) return `${keyword} fetches http and https, not "${shown}"`
  return undefined
}

/** What a here-document becomes, as text for the node; with its name in quotes nothing in it is a variable. */
function readDocument(document: Heredoc, reading: Reading): string {
  const text = document.lines.length === 0 ? '' : `${documentText(document)}\n`
  if (/['"]/.test(document.word)) return formatParts([text])
  const at = (offset: number) => {
    const lines = text.slice(0, offset).split('\n')
    return { line: document.firstLine + lines.length - 1, column: (lines.at(-1)?.length ?? 0) + 1 }
  }
  return formatParts(reading.stage.scope.resolve(text, at, reading.mistakes, parseDocument))
}

function readCopyFlags(
  flags: readonly Flag[],
  { arguments: given, keyword }: Instruction,
  reading: Reading,
  { unpack, sources }: { unpack: boolean; sources: readonly string[] },
): CopySettings {
  const settings: CopySettings = {}
  for (const { name, value = '', start } of flags) {
    const place = given.at(start)
    const wrong = (message: string) => reading.mistakes.add(place, message)
    const parts = reading.stage.scope.resolve(
      value,
      (offset) => given.at(start + name.length + 3 + offset),
      reading.mistakes,
    )
    const text = formatParts(parts)
    if (name === 'chown') {
      if (text === '' || text.length > 100) wrong('--chown needs a user, or user:group')
      else settings.owner = text
    } else if (name === 'chmod') {
      if (/^[0-7]{3,4}$/.test(text)) settings.mode = Number.parseInt(text, 8)
      else if (parseSymbolicMode(text)) settings.mode = text
      else wrong(`--chmod needs a mode such as 755 or u=rwX,go=rX, not "${text}"`)
    } else if (name === 'from' && !unpack) {
      if (!isKnown(parts))
        wrong(`--from needs a stage or an image, and "${value}" is not known here; declare it with ARG`)
      else settings.from = readOrigin(text, place, reading)
    } else if (name === 'checksum' && unpack) {
      if (!/^sha256:[0-9a-f]{64}$/.test(text)) wrong('--checksum needs sha256: and 64 hexadecimal digits')
      else if (sources.length !== 1 || !isUrl(sources[0] ?? '')) wrong('--checksum is of one URL, which ADD fetches')
      else settings.checksum = text
    } else if (name === 'exclude') {
      if (text === '') wrong('--exclude needs a pattern, such as *.md')
      else settings.exclude = [...(settings.exclude ?? []), text]
    } else if (name === 'parents' && !unpack) {
      if (value !== 'false') settings.parents = true
    } else if (name === 'link') reading.notes.add(place, '--link changes nothing here')
    else
      wrong(
        `${keyword} has no flag --${name} here; it has --chown, --chmod, --exclude and ${unpack ? '--checksum' : '--from and --parents'}`,
      )
  }
  return settings
}

/** A string of a JSON list: quotes and blanks in it are its own, variables are not. */
function quoted(text: string): string {
  return text.replace(/[\\"'\s]/g, '\\$&')
}
