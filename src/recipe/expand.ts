/**
 * Text with variables, as recipes carry it: `$NAME`, `${NAME}`, `${NAME:-word}`, `${NAME-word}`, `${NAME:+word}`,
 * `${NAME+word}`, `${NAME:?word}`, `${NAME?word}`; `$$` is a dollar, and `$}` a brace inside braces. Everything else stands for itself.
 * A client may fill in what it knows and leave the rest to the node: what is left is such text again.
 */
export type Part = string | Reference

export interface Reference {
  name: string
  /** What to do when it is set (`+`) or is not (`-`, `?`). */
  operator?: '-' | '+' | '?'
  /** With a colon, empty counts as not set. */
  colon?: boolean
  word?: Part[]
}

/** What a variable is: its value, parts that are not all known yet, or undefined when it is not set. */
export type Lookup = (name: string) => readonly Part[] | string | undefined

export class ExpandError extends Error {}

/** The text with all variables filled in; one that is not set is empty. Throws an ExpandError for `${NAME:?word}`. */
export function expand(text: string, lookup: (name: string) => string | undefined): string {
  return substitute(parseText(text), lookup, { unknown: 'empty' })
    .map((part) => (typeof part === 'string' ? part : ''))
    .join('')
}

/** Fills in what is known; with `unknown: 'keep'` references to the rest stay. */
export function substitute(parts: readonly Part[], lookup: Lookup, options: { unknown: 'keep' | 'empty' }): Part[] {
  return parts.flatMap((part): Part[] => {
    if (typeof part === 'string') return [part]
    const found = lookup(part.name)
    if (found === undefined && options.unknown === 'keep')
      return [part.word ? { ...part, word: substitute(part.word, lookup, options) } : part]
    const value: readonly Part[] = typeof found === 'string' ? [found] : (found ?? [])
    const word = () => substitute(part.word ?? [], lookup, options)
    const isSet = found !== undefined && !(part.colon && value.every((each) => each === ''))
    if (part.operator === '+') return isSet ? word() : []
    if (isSet || part.operator === undefined) return [...value]
    if (part.operator === '-') return word()
    const why = word().map((each) => (typeof each === 'string' ? each : `$${each.name}`))
    throw new ExpandError(`variable "${part.name}" is not set${why.length > 0 ? `: ${why.join('')}` : ''}`)
  })
}

/** Parts as text that `expand` reads again. */
export function formatParts(parts: readonly Part[], inBraces = false): string {
  return parts
    .map((part) => {
      if (typeof part === 'string') return part.replace(inBraces ? /[$}]/g : /\$/g, '$$$&')
      if (part.operator === undefined) return `\${${part.name}}`
      return `\${${part.name}${part.colon ? ':' : ''}${part.operator}${formatParts(part.word ?? [], true)}}`
    })
    .join('')
}

const maxDepth = 50

export function parseText(text: string): Part[] {
  return parse(text, 0, false, 0).parts
}

/** Whether a text can be used as it is. */
export function isKnown(parts: readonly Part[]): parts is readonly string[] {
  return parts.every((part) => typeof part === 'string')
}

function parse(text: string, from: number, inBraces: boolean, depth: number): { parts: Part[]; end: number } {
  const parts: Part[] = []
  let plain = ''
  let at = from
  const flush = () => {
    if (plain !== '') parts.push(plain)
    plain = ''
  }
  while (at < text.length) {
    const character = text.charAt(at)
    if (inBraces && character === '}') break
    const next = text.charAt(at + 1)
    if (character === '$' && (next === '$' || next === '}')) {
      plain += next
      at += 2
      continue
    }
    const reference = character === '$' && depth < maxDepth ? parseReference(text, at, depth) : undefined
    if (reference) {
      flush()
      parts.push(reference.part)
      at = reference.end
      continue
    }
    plain += character
    at += 1
  }
  flush()
  return { parts, end: at }
}

function parseReference(text: string, at: number, depth: number): { part: Reference; end: number } | undefined {
  const bare = /^\$([A-Za-z_]\w*|\d)/.exec(text.slice(at, at + 256))
  if (bare) return { part: { name: bare[1] ?? '' }, end: at + bare[0].length }
  const braced = /^\$\{([A-Za-z_]\w*|\d)(?:(:?)([-+?]))?/.exec(text.slice(at, at + 256))
  if (!braced) return undefined
  const [head, name = '', colon, operator] = braced
  const inner = parse(text, at + head.length, true, depth + 1)
  if (text.charAt(inner.end) !== '}' || (operator === undefined && inner.end > at + head.length)) return undefined
  const end = inner.end + 1
  if (operator === undefined) return { part: { name }, end }
  return { part: { name, operator: operator as '-' | '+' | '?', colon: colon === ':', word: inner.parts }, end }
}
