import { endpoints } from '../contract/endpoints.ts'
import { caFingerprint } from '../control/authority/authority.ts'
import { type Clock, deadline } from '../kit/clock.ts'
import type { Random } from '../kit/random.ts'
import { Fault } from '../model/fault.ts'
import { learnAuthority } from '../wire/http2/client-tls.ts'
import { createKeyAndRequest, rotationDueAt } from '../wire/http2/identity.ts'
import { askAsAgent } from './agent-request.ts'
import { type NodeIdentity, writeIdentity } from './identity.ts'

export interface JoinOptions {
  token: string
  address: { host: string; port: number }
  name: string
  clock: Clock
  signal: AbortSignal
}

/** Joining and renewing are a few small requests; a network that swallows them should not be waited for long. */
const patienceMs = 30_000

/** Buys this machine its certificate. The token's fingerprint proves the control plane before anything is told to it. */
export async function joinCluster({ token, address, name, clock, ...options }: JoinOptions): Promise<NodeIdentity> {
  using patience = deadline(clock, patienceMs, options.signal)
  const { signal } = patience
  const fingerprint = /^tuttijoin_[0-9a-z]+_[\w-]+_([0-9a-f]{64})$/.exec(token)?.[1]
  if (!fingerprint) {
    throw new Fault(
      'invalid',
      'this is not a join token (they begin with "tuttijoin_"); create one with "tutti token create --join"',
    )
  }
  const ca = await learnAuthority({ ...address, fingerprint, signal })
  if (caFingerprint(ca) !== fingerprint)
    throw new Fault('denied', 'the control plane presents another authority than the join token names')
  const { key, csr } = await createKeyAndRequest()
  const answer = endpoints.enroll.answer.parse(
    await askAsAgent({ address, ca, path: endpoints.enroll.path, body: { token, csr, name }, signal }),
  )
  return { node: answer.node, name, address, certificate: answer.certificate, key, ca: answer.ca }
}

/** Renews the node's certificate well before it ends, for as long as the agent runs. */
export async function keepRenewed(
  current: () => NodeIdentity,
  { file, clock, random, signal, onRenewed, onError }: RenewOptions,
): Promise<void> {
  while (!signal.aborted) {
    const due = rotationDueAt(current().certificate, random)
    await clock.sleep(Math.max(0, due - clock.now()), { signal }).catch(() => {})
    if (signal.aborted) return
    try {
      const renewed = await renew(current(), { clock, signal })
      await writeIdentity(file, renewed)
      onRenewed(renewed)
    } catch (error) {
      onError(error)
      await clock.sleep(retryMs, { signal }).catch(() => {})
    }
  }
}

const retryMs = 60_000

export interface RenewOptions {
  file: string
  clock: Clock
  random: Random
  signal: AbortSignal
  onRenewed: (identity: NodeIdentity) => void
  onError: (error: unknown) => void
}

/** The same node with a new key and certificate. */
export async function renew(
  identity: NodeIdentity,
  { clock, ...options }: { clock: Clock; signal: AbortSignal },
): Promise<NodeIdentity> {
  using patience = deadline(clock, patienceMs, options.signal)
  const { signal } = patience
  const { key, csr } = await createKeyAndRequest()
  const answer = endpoints.renew.answer.parse(
    await askAsAgent({
      address: identity.address,
      ca: identity.ca,
      identity,
      path: endpoints.renew.path,
      body: { csr },
      signal,
    }),
  )
  return { ...identity, key, certificate: answer.certificate, ca: answer.ca }
}
