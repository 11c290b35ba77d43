import { enrollNode, renewNode } from '../control/actions/enroll-node.ts'
import type { Authority } from '../control/authority/authority.ts'
import type { Control } from '../control/control.ts'
import { NodeId } from '../model/ids.ts'
import type { Handlers } from './handlers.ts'

export function enrollHandlers({
  control,
  authority,
}: {
  control: Control
  authority: Authority
}): Pick<Handlers, 'enroll' | 'renew'> {
  const ca = authority.caCertificate
  return {
    enroll: async ({ body }) => {
      const { node, certificate } = await enrollNode(control, authority, {
        token: body.token,
        name: body.name,
        request: body.csr,
      })
      return { node: node.id, certificate, ca }
    },
    renew: async ({ body, caller }) => {
      const certificate = await renewNode(control, authority, { node: NodeId.parse(caller.name), request: body.csr })
      return { certificate, ca }
    },
  }
}
