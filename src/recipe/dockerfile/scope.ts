import { ExpandError, formatParts, isKnown, type Part, substitute } from '../expand.ts'
import { parseWord, WordError } from './parse-word.ts'
import type { Mistakes, Position } from './places.ts'

/** Set by the builder in every Dockerfile that declares them; what depends on the machine is left to the node. */
const automatic: Readonly<Record<string, readonly Part[]>> = {
  TARGETOS: ['linux'],
  BUILDOS: ['linux'],
  TARGETARCH: [{ name: 'TARGETARCH' }],
  BUILDARCH: [{ name: 'TARGETARCH' }],
  TARGETVARIANT: [''],
  BUILDVARIANT: [''],
  TARGETPLATFORM: ['linux/', { name: 'TARGETARCH' }],
  BUILDPLATFORM: ['linux/', { name: 'TARGETARCH' }],
  TARGETSTAGE: [''],
}

/** May be given without being declared, by a custom older than declarations. */
const undeclared = ['HTTP_PROXY', 'HTTPS_PROXY', 'FTP_PROXY', 'NO_PROXY', 'ALL_PROXY']

/**
 * Variables while a Dockerfile is read: ARG and ENV, and the rule that ENV wins. What comes from the image itself is not
 * known here; references to it stay in the text, for the node.
 */
export class Scope {
  readonly #given: Readonly<Record<string, string>>
  readonly #global = new Map<string, readonly Part[]>()
  readonly #args = new Map<string, readonly Part[]>()
  readonly #env = new Map<string, readonly Part[]>()
  readonly #used = new Set<string>()
  #begun = false

  constructor(buildArgs: Readonly<Record<string, string>>) {
    this.#given = buildArgs
    for (const [name, value] of Object.entries(buildArgs)) {
      if (!undeclared.includes(name.toUpperCase())) continue
      this.#args.set(name, [value])
      this.#used.add(name)
    }
  }

  /** After FROM, what was declared before it must be declared again to be seen. */
  begin(): void {
    this.#begun = true
  }

  declare(name: string, value: readonly Part[] | undefined): void {
    this.#used.add(name)
    const given = Object.hasOwn(this.#given, name) ? this.#given[name] : undefined
    const found = given === undefined ? (value ?? this.#global.get(name) ?? this.#automatic(name)) : [given]
    if (!this.#begun) this.#global.set(name, found ?? [''])
    else if (found) this.#args.set(name, found)
  }

  setEnv(name: string, value: readonly Part[]): void {
    this.#env.set(name, value)
  }

  /** What RUN is given beyond the environment, as text for the node. */
  argsText(): Record<string, string> | undefined {
    const visible = [...this.#args].filter(([name]) => !this.#env.has(name))
    if (visible.length === 0) return undefined
    return Object.fromEntries(visible.map(([name, parts]) => [name, formatParts(parts)]))
  }

  /** A word with what is known filled in. A mistake in it is noted, and the word is then empty. */
  resolve(text: string, position: (offset: number) => Position, mistakes: Mistakes): Part[] {
    try {
      return substitute(parseWord(text), (name) => this.#find(name), { unknown: this.#begun ? 'keep' : 'empty' })
    } catch (error) {
      if (error instanceof WordError) mistakes.add(position(error.offset), error.message)
      else if (error instanceof ExpandError) mistakes.add(position(0), error.message)
      else throw error
      return []
    }
  }

  /** Arguments that were given and that nothing declares. */
  unused(): string[] {
    return Object.keys(this.#given).filter((name) => !this.#used.has(name))
  }

  #find(name: string): readonly Part[] | undefined {
    if (!this.#begun) return this.#global.get(name) ?? this.#automatic(name)
    const env = this.#env.get(name)
    // What the node must work out is there an environment variable by then.
    if (env) return isKnown(env) ? env : undefined
    return this.#args.get(name)
  }

  #automatic(name: string): readonly Part[] | undefined {
    return Object.hasOwn(automatic, name) ? automatic[name] : undefined
  }
}
