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

interface ScopeState {
  given: Readonly<Record<string, string>>
  global: Map<string, readonly Part[]>
  args: ReadonlyMap<string, readonly Part[]>
  env: ReadonlyMap<string, readonly Part[]>
  used: Set<string>
  begun: boolean
}

/**
 * Variables while a Dockerfile is read: ARG and ENV, and the rule that ENV wins. What comes from the image itself is not
 * known here; references to it stay in the text, for the node.
 */
export class Scope {
  readonly #given: Readonly<Record<string, string>>
  readonly #global: Map<string, readonly Part[]>
  readonly #args: Map<string, readonly Part[]>
  readonly #env: Map<string, readonly Part[]>
  readonly #used: Set<string>
  readonly #begun: boolean

  private constructor(parent: Pick<ScopeState, 'given'> & Partial<ScopeState>) {
    this.#given = parent.given
    this.#global = parent.global ?? new Map()
    this.#args = new Map(parent.args)
    this.#env = new Map(parent.env)
    this.#used = parent.used ?? new Set()
    this.#begun = parent.begun ?? false
  }

  /** Before the first FROM. */
  static of(buildArgs: Readonly<Record<string, string>>): Scope {
    return new Scope({ given: buildArgs })
  }

  /** Of a stage that begins from an image: what was declared before FROM must be declared again to be seen. */
  forStage(): Scope {
    const args = new Map<string, readonly Part[]>()
    for (const [name, value] of Object.entries(this.#given)) {
      if (!undeclared.includes(name.toUpperCase())) continue
      args.set(name, [value])
      this.#used.add(name)
    }
    return new Scope({ given: this.#given, global: this.#global, used: this.#used, args, begun: true })
  }

  /** Of a stage that begins from this one, and sees what it saw. */
  forChild(): Scope {
    const [args, env] = [this.#args, this.#env]
    return new Scope({ given: this.#given, global: this.#global, used: this.#used, args, env, begun: true })
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
  resolve(text: string, position: (offset: number) => Position, mistakes: Mistakes, parse = parseWord): Part[] {
    try {
      return substitute(parse(text), (name) => this.#find(name), { unknown: this.#begun ? 'keep' : 'empty' })
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
