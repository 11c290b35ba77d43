import { X509Certificate } from 'node:crypto'
import { Fault } from '../../model/fault.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Node } from '../../model/node.ts'
import { keyFingerprint } from '../../wire/http2/peer.ts'
import type { Authority } from '../authority/authority.ts'
import { signAgentRequest } from '../authority/issue.ts'
import { type Control, newId } from '../control.ts'
import { addAudit, addEvent } from '../marks.ts'
import { spendJoinToken } from './tokens.ts'

export interface Enrolment {
  node: Node
  /** PEM. */
  certificate: string
}

/**
 * A machine joins: its token buys a certificate for the key it proved to hold. Enrolling again with the same key and
 * name, because the answer was lost, gives the same node.
 */
export async function enrollNode(
  control: Control,
  authority: Authority,
  { token, name, request }: { token: string; name: string; request: string },
): Promise<Enrolment> {
  const { store, clock, random } = control
  const sign = (nodeId: NodeId) => signAgentRequest({ authority, csr: request, nodeId, now: clock.now(), random })
  let id = newId(control) as NodeId
  let certificate = await sign(id)
  const fingerprint = keyFingerprint(new X509Certificate(certificate))
  const known = [...store.view.by('nodesByName', name)].find((node) => node.keyFingerprint === fingerprint)
  if (known) {
    id = known.id
    certificate = await sign(id)
  }
  const { result } = await store.write((tx) => {
    const paid = spendJoinToken(tx, token)
    for (const other of tx.by('nodesByName', name)) {
      if (other.id === id) return other
      throw new Fault(
        'conflict',
        `a node named "${name}" has joined already; give this one another with --name, or remove the old one first with "tutti node remove ${name}"`,
      )
    }
    const node = joinedNode(tx.now, { id, name, labels: paid.labels, keyFingerprint: fingerprint })
    tx.put('nodes', node)
    addEvent(tx, {
      level: 'info',
      kind: 'node.joined',
      node: id,
      message: `node "${name}" joined with token "${paid.name}"`,
    })
    addAudit(tx, { by: `join token ${paid.name}`, action: 'node.join', subject: name })
    return node
  })
  return { node: result, certificate }
}

/** A node as it is before its agent first connects. */
export function joinedNode(now: number, given: Pick<Node, 'id' | 'name' | 'labels' | 'keyFingerprint'>): Node {
  return { ...given, phase: 'joined', eligible: true, drain: null, facts: null, epoch: 0, since: now, joinedAt: now }
}

/** An agent changes its certificate before it runs out. The old key is good until the new one is first used. */
export async function renewNode(
  control: Control,
  authority: Authority,
  { node, request }: { node: NodeId; request: string },
): Promise<string> {
  const { clock, random } = control
  const certificate = await signAgentRequest({ authority, csr: request, nodeId: node, now: clock.now(), random })
  const fingerprint = keyFingerprint(new X509Certificate(certificate))
  await control.store.write((tx) => {
    const row = tx.get('nodes', node)
    if (!row) throw new Fault('denied', 'this node was removed from the cluster; join it again with a new token')
    tx.put('nodes', { ...row, nextKeyFingerprint: fingerprint })
  })
  return certificate
}
