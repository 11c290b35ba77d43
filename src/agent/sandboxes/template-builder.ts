import type { Duplex } from 'node:stream'
import type { BuildId } from '../../model/ids.ts'
import type { BuildStream } from '../../wire/sandbox.ts'
import type { AdoptedAnswer } from '../../wire/sandbox-answers.ts'

/** What the agent asks of whoever makes templates on this node. */
export interface TemplateBuilder {
  /** Builds one; the stream is as `wire/sandbox.ts` says. Throws before it touches the stream. */
  serve(request: BuildStream, stream: Duplex, options: { signal: AbortSignal }): Promise<void>
  /** Removes the names of a build, so that the next collection frees it. */
  forget(build: BuildId): Promise<void>
  /** Gives a build that lies here already the name that keeps it. Rejects with `not_found` when it does not. */
  adopt(build: BuildId): Promise<AdoptedAnswer>
}
