import { type Mistakes, type Placed, type Position, slicePlaced } from './places.ts'
import { splitWords } from './words.ts'

/** One instruction: its keyword in capitals, its arguments as one line, and the here-documents that it brings. */
export interface Instruction {
  keyword: string
  position: Position
  arguments: Placed
  heredocs: Heredoc[]
  /** As it is written, on one line, for people. */
  source: string
}

export interface Heredoc {
  name: string
  /** As the shell wants it: the word `<<-NAME`, the lines, and the name that ends them. */
  word: string
  lines: string[]
  position: Position
  /** Of the file, counted from 1. */
  firstLine: number
}

/**
 * Cuts a Dockerfile into instructions by the rules of BuildKit's parser: a backslash at the end of a line continues it,
 * comments and empty lines in between vanish, `<<NAME` in RUN, COPY and ADD takes the lines until NAME.
 */
export function splitInstructions(text: string, mistakes: Mistakes): Instruction[] {
  const lines = text.replace(/^\ufeff/, '').split(/\r?\n/)
  const found: Instruction[] = []
  checkDirectives(lines, mistakes)
  for (let row = 0; row < lines.length; ) {
    const line = lines[row] ?? ''
    if (isBlank(line) || isComment(line)) {
      row += 1
      continue
    }
    const joined = joinLines(lines, row)
    row = joined.next
    const [, space = '', word = ''] = /^(\s*)(\S+)/.exec(joined.placed.text) ?? []
    const rest = joined.placed.text.slice(space.length + word.length)
    const gap = rest.length - rest.trimStart().length
    const start = space.length + word.length + gap
    const instruction: Instruction = {
      keyword: word.toUpperCase(),
      position: joined.placed.at(space.length),
      arguments: slicePlaced(joined.placed, start, start + rest.trim().length),
      heredocs: [],
      source: joined.placed.text.trim().replace(/\s+/g, ' '),
    }
    if (['RUN', 'COPY', 'ADD'].includes(instruction.keyword)) row = takeHeredocs(instruction, lines, row, mistakes)
    found.push(instruction)
  }
  return found
}

function isBlank(line: string): boolean {
  return line.trim() === ''
}

function isComment(line: string): boolean {
  return /^\s*#/.test(line)
}

/** `# escape=` changes what a backslash means, for Windows; other directives change nothing here. */
function checkDirectives(lines: readonly string[], mistakes: Mistakes): void {
  for (const [row, line] of lines.entries()) {
    const directive = /^\s*#\s*([a-zA-Z]+)\s*=\s*(.+?)\s*$/.exec(line)
    if (!directive) return
    if (directive[1]?.toLowerCase() === 'escape' && directive[2] !== '\\')
      mistakes.add(
        { line: row + 1, column: line.indexOf('#') + 1 },
        `"escape=${directive[2]}" is for images of Windows; the escape character here is the backslash`,
      )
  }
}

/** The logical line that begins at `row`. */
function joinLines(lines: readonly string[], row: number): { placed: Placed; next: number } {
  const pieces: { offset: number; line: number }[] = []
  let text = ''
  let next = row
  while (next < lines.length) {
    const line = lines[next] ?? ''
    next += 1
    if (next - 1 > row && (isComment(line) || isBlank(line))) continue
    pieces.push({ offset: text.length, line: next })
    const continued = /\\[ \t]*$/.exec(line)
    text += continued ? line.slice(0, continued.index) : line
    if (!continued) break
  }
  const at = (offset: number): Position => {
    const piece = pieces.findLast((each) => each.offset <= offset) ?? { offset: 0, line: row + 1 }
    return { line: piece.line, column: offset - piece.offset + 1 }
  }
  return { placed: { text, at }, next }
}

function takeHeredocs(instruction: Instruction, lines: readonly string[], from: number, mistakes: Mistakes): number {
  let row = from
  for (const { text, start } of splitWords(instruction.arguments.text)) {
    const match = /^\d*<<(-?)(['"]?)([A-Za-z_][\w.-]*)\2$/.exec(text)
    if (!match) continue
    const [, dash = '', , name = ''] = match
    const end = lines.findIndex((line, at) => at >= row && (dash ? line.replace(/^\t+/, '') : line) === name)
    const position = instruction.arguments.at(start)
    if (end < 0) {
      mistakes.add(position, `the here-document <<${name} has no end; a line with only "${name}" ends it`)
      return lines.length
    }
    instruction.heredocs.push({ name, word: text, lines: lines.slice(row, end), position, firstLine: row + 1 })
    row = end + 1
  }
  return row
}
