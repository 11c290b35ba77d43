import type { Part, Reference } from '../expand.ts'

/** A word that cannot be read, and where in it. */
export class WordError extends Error {
  readonly offset: number

  constructor(message: string, offset: number) {
    super(message)
    this.offset = offset
  }
}

/**
 * A word of a Dockerfile as parts: quotes are taken off, escapes undone, variables told apart from text, as Docker's own
 * small shell does (https://docs.docker.com/reference/dockerfile/#environment-replacement). Throws a WordError.
 */
export function parseWord(text: string): Part[] {
  return new Reader(text).read(() => false)
}

/** The text of a here-document as parts: quotes are text like any other, the rest as in words. Throws a WordError. */
export function parseDocument(text: string): Part[] {
  return new Reader(text, { quotes: false }).read(() => false)
}

class Reader {
  readonly #text: string
  readonly #quotes: boolean
  #at = 0
  #depth = 0

  constructor(text: string, { quotes = true } = {}) {
    this.#text = text
    this.#quotes = quotes
  }

  /** Until the end, or until `stop` says that the character outside of quotes ends it. */
  read(stop: (character: string) => boolean): Part[] {
    const parts: Part[] = []
    for (;;) {
      const character = this.#peek()
      if (character === '' || stop(character)) return join(parts)
      if (character === "'" && this.#quotes) parts.push(this.#single())
      else if (character === '"' && this.#quotes) parts.push(...this.#double())
      else if (character === '$') parts.push(this.#dollar())
      else if (character === '\\') {
        this.#at += 1
        parts.push(this.#peek())
        this.#at += 1
      } else {
        parts.push(character)
        this.#at += 1
      }
    }
  }

  #peek(): string {
    return this.#text.charAt(this.#at)
  }

  #single(): string {
    const opened = this.#at
    const end = this.#text.indexOf("'", opened + 1)
    if (end < 0) throw new WordError("this quote ' is not closed", opened)
    this.#at = end + 1
    return this.#text.slice(opened + 1, end)
  }

  #double(): Part[] {
    const opened = this.#at
    const parts: Part[] = ['']
    this.#at += 1
    for (;;) {
      const character = this.#peek()
      if (character === '') throw new WordError('this quote " is not closed', opened)
      if (character === '"') {
        this.#at += 1
        return parts
      }
      if (character === '$') {
        parts.push(this.#dollar())
        continue
      }
      const escapes = character === '\\' && /["$\\]/.test(this.#text.charAt(this.#at + 1))
      if (escapes) this.#at += 1
      parts.push(this.#peek())
      this.#at += 1
    }
  }

  #dollar(): Part {
    const start = this.#at
    const rest = this.#text.slice(start)
    const bare = /^\$([A-Za-z_]\w*|[0-9@*#?])/.exec(rest)
    if (bare) {
      this.#at += bare[0].length
      return { name: bare[1] ?? '' }
    }
    if (!rest.startsWith('${')) {
      this.#at += 1
      return '$'
    }
    const head = /^\$\{([A-Za-z_]\w*|[0-9])/.exec(rest)
    if (!head) throw new WordError('after "${" comes the name of a variable', start)
    this.#at += head[0].length
    return this.#braced(head[1] ?? '', start)
  }

  #braced(name: string, start: number): Reference {
    if (this.#peek() === '}') {
      this.#at += 1
      return { name }
    }
    const colon = this.#peek() === ':'
    if (colon) this.#at += 1
    const operator = this.#peek()
    if (operator === '' || /\s/.test(operator)) throw new WordError(`"\${${name}" is not closed with "}"`, start)
    if (operator !== '-' && operator !== '+' && operator !== '?')
      throw new WordError(
        `"\${${name}${colon ? ':' : ''}${operator}…}" is not supported; there are :- - :+ + :? and ?`,
        start,
      )
    this.#at += 1
    this.#depth += 1
    if (this.#depth > 50) throw new WordError('variables are nested more than 50 deep', start)
    const word = this.read((character) => character === '}')
    this.#depth -= 1
    if (this.#peek() !== '}') throw new WordError(`"\${${name}" is not closed with "}"`, start)
    this.#at += 1
    return { name, operator, colon, word }
  }
}

/** Neighbouring texts as one. */
function join(parts: readonly Part[]): Part[] {
  const joined: Part[] = []
  for (const part of parts) {
    const last = joined.at(-1)
    if (typeof part === 'string' && typeof last === 'string') joined[joined.length - 1] = last + part
    else joined.push(part)
  }
  return joined
}
