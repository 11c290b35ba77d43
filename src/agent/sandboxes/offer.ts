import type { Sandboxes } from '../../sandboxes/sandboxes.ts'
import type { NodeMeasures } from '../../wire/sandbox.ts'
import type { TemplateBuilder } from './template-builder.ts'

export interface SandboxParts {
  sandboxes: Sandboxes
  builder: TemplateBuilder
  /** For operators. */
  measure(options: { signal: AbortSignal }): Promise<NodeMeasures>
}

/**
 * Sandboxes take processes and memory of their own, so a node opens them when somebody first asks; at once where an
 * earlier agent left some.
 */
export interface SandboxOffer {
  /** Rejects with a Fault that says what this machine lacks; asking again tries again. */
  open(): Promise<SandboxParts>
  /** Whether sandboxes live here from before: nothing can be said of them until they are open. */
  readonly isDue: boolean
  /** Resolves once they are open; never rejects. */
  readonly opened: Promise<SandboxParts>
}
