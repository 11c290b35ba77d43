import type { JobSpec } from '../model/job.ts'
import type { Node } from '../model/node.ts'
import { nodeRules } from './rules/all.ts'

/** Specs remembered at once: with ten thousand nodes each takes some 100 kB. */
const mostSpecs = 32

/**
 * Whether the rules that look at the node itself let it take copies of a spec, room aside. Asked once per node and spec
 * for as long as both stay the same, since a job is often planned again.
 */
export class Verdicts {
  readonly #known = new Map<JobSpec, Verdict>()

  of(spec: JobSpec): Verdict {
    const verdict = this.#known.get(spec) ?? new Verdict(spec)
    this.#known.delete(spec)
    this.#known.set(spec, verdict)
    const oldest = this.#known.size > mostSpecs ? this.#known.keys().next().value : undefined
    if (oldest) this.#known.delete(oldest)
    return verdict
  }
}

export class Verdict {
  readonly #spec: JobSpec
  /** The node as it was when it was asked about: a changed node is another object. */
  readonly #asked: (Node | undefined)[] = []
  readonly #passes: boolean[] = []

  constructor(spec: JobSpec) {
    this.#spec = spec
  }

  passes(row: number, node: Node): boolean {
    if (this.#asked[row] === node) return this.#passes[row] === true
    while (this.#asked.length <= row) {
      this.#asked.push(undefined)
      this.#passes.push(false)
    }
    const passes = nodeRules.every((rule) => rule.passes(node, this.#spec))
    this.#asked[row] = node
    this.#passes[row] = passes
    return passes
  }
}
