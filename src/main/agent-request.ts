import { request } from 'node:https'
import { json } from 'node:stream/consumers'
import { z } from 'zod'
import { Fault, faultCodes } from '../model/fault.ts'

export interface AgentRequest {
  address: { host: string; port: number }
  /** What the server's chain must lead to. */
  ca: string
  /** Shown to the server when given. */
  identity?: { certificate: string; key: string }
  path: string
  body: object
  signal: AbortSignal
}

/**
 * The few requests that a machine makes of the API on its own behalf, before and beside its agent's connection. The
 * server is known by the authority alone, as in `wire/http2/dial.ts`.
 */
export async function askAsAgent({ address, ca, identity, path, body, signal }: AgentRequest): Promise<unknown> {
  const where = `the control plane at ${address.host}:${address.port}`
  const { promise, resolve, reject } = Promise.withResolvers<unknown>()
  const outgoing = request(
    {
      ...address,
      path,
      method: 'POST',
      ca,
      ...(identity ? { cert: identity.certificate, key: identity.key } : {}),
      checkServerIdentity: () => undefined,
      headers: { 'content-type': 'application/json' },
      agent: false,
      signal,
    },
    (response) => {
      json(response).then(
        (answer) => (response.statusCode === 200 ? resolve(answer) : reject(asFault(answer, where))),
        (cause: unknown) => reject(new Fault('unavailable', `${where} gave no sensible answer`, { cause })),
      )
    },
  )
  outgoing.once('error', (cause) => reject(new Fault('unavailable', `${where} cannot be reached`, { cause })))
  outgoing.end(JSON.stringify(body))
  return promise
}

const Problem = z.object({ code: z.enum(faultCodes), message: z.string().max(4000) })

function asFault(answer: unknown, where: string): Fault {
  const problem = Problem.safeParse(answer)
  return problem.success
    ? new Fault(problem.data.code, problem.data.message)
    : new Fault('unavailable', `${where} refused without saying why`)
}
