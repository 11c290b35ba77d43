import { text } from 'node:stream/consumers'
import { Fault } from '../../model/fault.ts'
import type { NodeId } from '../../model/ids.ts'
import type { SandboxRequest } from '../../wire/sandbox.ts'
import { type SandboxAnswer, sandboxAnswers } from '../../wire/sandbox-answers.ts'
import type { Nodes } from './desk.ts'

type Op = SandboxRequest['op']
type RequestOf<O extends Op> = Extract<SandboxRequest, { op: O }>

/** One request to a node's `sandbox` service, and its answer. Rejects with the Fault that the node says. */
export async function askNode<O extends Op>(
  nodes: Nodes,
  node: NodeId,
  request: RequestOf<O>,
  { signal }: { signal: AbortSignal },
): Promise<SandboxAnswer<O>> {
  const stream = await nodes.open(node, 'sandbox', request, { signal })
  stream.end()
  const line = await text(stream)
  const answer = sandboxAnswers[request.op as O].safeParse(parse(line))
  if (answer.success) return answer.data as SandboxAnswer<O>
  throw new Fault('unavailable', `what the node answered to "${request.op}" cannot be understood`, {
    cause: answer.error,
  })
}

function parse(line: string): unknown {
  if (line.trim() === '') return {}
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}
