/** A word of a line, with its quotes, and where it stands in the line. */
export interface Word {
  text: string
  start: number
}

/** Cuts at white space that is in no quotes and not escaped. What lacks its closing quote goes to the end. */
export function splitWords(text: string): Word[] {
  const words: Word[] = []
  let start = -1
  let quote = ''
  for (let at = 0; at < text.length; at += 1) {
    const character = text.charAt(at)
    if (quote === '' && /\s/.test(character)) {
      if (start >= 0) words.push({ text: text.slice(start, at), start })
      start = -1
      continue
    }
    if (start < 0) start = at
    if (character === '\\' && quote !== "'") at += 1
    else if (quote === '' && (character === '"' || character === "'")) quote = character
    else if (character === quote) quote = ''
  }
  if (start >= 0) words.push({ text: text.slice(start), start })
  return words
}

/** Where a quote opens that nothing closes. */
export function findOpenQuote(text: string): number | undefined {
  let quote = ''
  let opened = 0
  for (let at = 0; at < text.length; at += 1) {
    const character = text.charAt(at)
    if (character === '\\' && quote !== "'") at += 1
    else if (quote === '' && (character === '"' || character === "'")) {
      quote = character
      opened = at
    } else if (character === quote) quote = ''
  }
  return quote === '' ? undefined : opened
}

/** `["program", "argument"]`: the strings, or undefined when the text is not that form. */
export function readJsonForm(text: string): string[] | undefined {
  if (!text.startsWith('[')) return undefined
  try {
    const value: unknown = JSON.parse(text)
    return Array.isArray(value) && value.every((each) => typeof each === 'string') ? value : undefined
  } catch {
    return undefined
  }
}

/** `--name=value` words at the beginning, and where what follows them begins. */
export function splitFlags(text: string): { flags: Flag[]; rest: number } {
  const flags: Flag[] = []
  for (const word of splitWords(text)) {
    const match = /^--([a-zA-Z][\w-]*)(?:=(.*))?$/s.exec(word.text)
    if (!match) return { flags, rest: word.start }
    flags.push({ name: (match[1] ?? '').toLowerCase(), value: match[2], start: word.start })
  }
  return { flags, rest: text.length }
}

export interface Flag {
  name: string
  value: string | undefined
  start: number
}
