import { z } from 'zod'
import { Name, NodeId } from '../model/ids.ts'
import { endpoint } from './endpoint.ts'
import { routes } from './routes.ts'

const Pem = z.string().max(16_384)
const Csr = Pem.startsWith('-----BEGIN', 'must be a certificate request in PEM')

/** How a machine becomes a node, and stays one. */
export const enrollEndpoints = {
  enroll: endpoint({
    ...routes.enroll,
    role: 'public',
    summary: 'Buys a certificate for a machine with a join token.',
    body: z.strictObject({
      token: z.string().min(1).max(300),
      csr: Csr,
      name: Name,
    }),
    answer: z.object({ node: NodeId, certificate: Pem, ca: Pem }),
    faults: ['conflict'],
  }),
  renew: endpoint({
    ...routes.renew,
    role: 'agent',
    summary: 'Exchanges the certificate that the connection shows for a new one.',
    body: z.strictObject({ csr: Csr }),
    answer: z.object({ certificate: Pem, ca: Pem }),
    faults: [],
  }),
}
