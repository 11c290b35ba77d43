import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { SandboxOffer, SandboxParts } from '../../agent/sandboxes/offer.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import type { Random } from '../../kit/random.ts'
import type { Wakeup } from '../../kit/wakeup.ts'
import { Fault } from '../../model/fault.ts'
import type { DriverFacts } from '../../model/node.ts'
import { findMemoryLayers } from '../../vmm/qemu/memory-layers.ts'
import { createQemu } from '../../vmm/qemu/qemu.ts'
import type { Vmm } from '../../vmm/vmm.ts'
import { findGuestAgent, guestAgentRemedy } from './guest-agent.ts'

export interface OfferOptions {
  /** The agent's own. */
  directory: string
  env: Readonly<Record<string, string | undefined>>
  clock: Clock
  random: Random
  log: Log
  /** Rung when it is known what this machine can do. */
  newFacts: Wakeup
}

/** The sandboxes of this machine, and what it says of them. Disposing lets go; they run on. */
export interface NodeSandboxes extends SandboxOffer, AsyncDisposable {
  /** As a driver's; says at once what is known so far. */
  facts(): Promise<DriverFacts>
}

export async function offerSandboxes(options: OfferOptions): Promise<NodeSandboxes> {
  const { log, newFacts } = options
  const { vmm, directory, kernelRoots } = ownVmm(options)
  const closing = new AbortController()
  const opened = Promise.withResolvers<SandboxParts>()
  const isDue = (await readdir(join(directory, 'sandboxes')).catch(() => [])).length > 0
  let opening: Promise<SandboxParts> | undefined
  let facts: DriverFacts | undefined
  let asking: Promise<void> | undefined
  const own = new AsyncDisposableStack()

  const open = (): Promise<SandboxParts> => {
    opening ??= openParts({ ...options, directory, vmm, kernelRoots, signal: closing.signal }, own).then(
      (parts) => {
        opened.resolve(parts)
        return parts
      },
      (error: unknown) => {
        opening = undefined
        throw error
      },
    )
    return opening
  }
  const find = async () => {
    const before = JSON.stringify(facts)
    facts = await sandboxFacts(vmm, options)
    if (JSON.stringify(facts) !== before) newFacts.ring()
  }
  if (isDue) open().catch((error: unknown) => log.error({ err: error }, 'the sandboxes of this node cannot be opened'))
  return {
    isDue,
    opened: opened.promise,
    open,
    facts: async () => {
      asking ??= find().finally(() => {
        asking = undefined
      })
      return facts ?? untried
    },
    [Symbol.asyncDispose]: async () => {
      closing.abort(new Fault('unavailable', 'the agent is shutting down'))
      await asking?.catch(() => {})
      await opening?.catch(() => {})
      await own.disposeAsync()
    },
  }
}

/** Whether sandboxes work on this machine; takes as long as it takes to find out. */
export function findSandboxFacts(options: Omit<OfferOptions, 'newFacts'>): Promise<DriverFacts> {
  return sandboxFacts(ownVmm(options).vmm, options)
}

function ownVmm({
  directory: agentDirectory,
  env,
  clock,
  log,
}: Pick<OfferOptions, 'directory' | 'env' | 'clock' | 'log'>) {
  const directory = join(agentDirectory, 'sandboxes')
  const kernelRoots = [join(import.meta.dirname, '../../../.tutti/kernels', ownArch())]
  const vmm = createQemu({
    clock,
    log,
    directory,
    kernel: env['TUTTI_KERNEL'],
    kernelRoots,
    layers: findMemoryLayers(),
    emulate: env['TUTTI_EMULATE'] === '1',
    saving: env['TUTTI_SAVE_WHOLE'] === '1' ? 'whole' : 'devices',
  })
  return { vmm, directory, kernelRoots }
}

function ownArch(): 'amd64' | 'arm64' {
  return process.arch === 'arm64' ? 'arm64' : 'amd64'
}

async function sandboxFacts(vmm: Vmm, { env, random }: Pick<OfferOptions, 'env' | 'random'>): Promise<DriverFacts> {
  const { healthy, reason, remedy, version, accelerator, compat, arch } = await vmm.facts()
  if (!healthy)
    return {
      healthy,
      attributes: {},
      ...(reason === undefined ? {} : { reason }),
      ...(remedy === undefined ? {} : { remedy }),
    }
  if ((await findGuestAgent(arch, env)) === undefined)
    return { healthy: false, reason: `there is no guest agent for ${arch}`, remedy: guestAgentRemedy, attributes: {} }
  const upstream = env['TUTTI_STORE'] || undefined
  if (upstream === undefined) return { healthy: true, version, attributes: { vmm: vmm.name, accelerator, compat } }
  const [{ openObjects }, { storeName }] = await Promise.all([
    import('../../blocks/objects/open.ts'),
    import('../../blocks/objects/name.ts'),
  ])
  try {
    await openObjects(upstream, { random })
  } catch (error) {
    return {
      ...{ healthy: false, attributes: {}, reason: `its store cannot be used: ${Fault.from(error).message}` },
      remedy: 'correct TUTTI_STORE in the environment of the agent',
    }
  }
  const store = storeName(upstream).slice(0, 500)
  return { healthy: true, version, attributes: { vmm: vmm.name, accelerator, compat, store } }
}

/** Their code is loaded now: the bigger an agent, the longer it takes to start a program, and many run no sandbox ever. */
async function openParts(...options: Parameters<typeof import('./open-parts.ts').openParts>): Promise<SandboxParts> {
  const opening = await import('./open-parts.ts')
  return opening.openParts(...options)
}

/** Until the first answer, some seconds after the agent started. */
const untried: DriverFacts = {
  healthy: false,
  reason: 'it is being tried whether virtual machines boot here',
  remedy: 'try again in some seconds',
  attributes: {},
}
