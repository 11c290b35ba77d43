import { readFileSync } from 'node:fs'
import { mkdir, readdir } from 'node:fs/promises'
import { availableParallelism, freemem } from 'node:os'
import { join } from 'node:path'
import type { SandboxOffer, SandboxParts } from '../../agent/sandboxes/offer.ts'
import { storeName } from '../../blocks/objects/name.ts'
import { openObjects } from '../../blocks/objects/open.ts'
import type { BlockServer } from '../../blocks/server/protocol.ts'
import { connectGuest } from '../../guest/channel/connect.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import type { Random } from '../../kit/random.ts'
import type { Wakeup } from '../../kit/wakeup.ts'
import { Fault } from '../../model/fault.ts'
import type { DriverFacts } from '../../model/node.ts'
import { parseSize } from '../../model/quantity.ts'
import { openSandboxes } from '../../sandboxes/engine.ts'
import type { Parts } from '../../sandboxes/parts.ts'
import type { Sandboxes } from '../../sandboxes/sandboxes.ts'
import { bootFiles } from '../../vmm/boot/boot-files.ts'
import { createQemu } from '../../vmm/qemu/qemu.ts'
import type { Vmm } from '../../vmm/vmm.ts'
import type { NodeMeasures } from '../../wire/sandbox.ts'
import { keepBlockServer } from './block-server.ts'
import { collectBuilds } from './collect-builds.ts'
import { findGuestAgent, guestAgentRemedy } from './guest-agent.ts'
import { openNetwork } from './network.ts'
import { templateBuilder } from './template-builder.ts'
import { diskOf, trimCache } from './trim-cache.ts'

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
      return facts ?? { healthy: false, reason: 'it is being tried whether virtual machines boot here', attributes: {} }
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
    emulate: env['TUTTI_EMULATE'] === '1',
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

async function openParts(
  options: OfferOptions & { vmm: Vmm; kernelRoots: string[]; signal: AbortSignal },
  own: AsyncDisposableStack,
): Promise<SandboxParts> {
  const { directory, vmm, clock, random, log, env, signal } = options
  const { healthy, reason, remedy, arch } = await vmm.facts()
  if (!healthy) throw new Fault('unavailable', `this node cannot run sandboxes: ${reason}; ${remedy}`)
  const init = await findGuestAgent(arch, env)
  if (init === undefined)
    throw new Fault(
      'unavailable',
      `this node cannot run sandboxes: there is no guest agent for ${arch}; ${guestAgentRemedy}`,
    )
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const boot = await bootFiles({
    arch,
    path: env['TUTTI_KERNEL'],
    roots: options.kernelRoots,
    init,
    directory: join(directory, 'boot'),
  })
  const blocks = own.use(
    await keepBlockServer({
      ...{ directory: join(directory, 'blocks'), upstream: env['TUTTI_STORE'] || undefined, clock, signal },
    }),
  )
  const disk = () => diskOf(directory)
  void collectBuilds(blocks, { disk, clock, log, signal })
  if (env['TUTTI_STORE']) void trimCache(blocks, { disk, limitBytes: cacheLimitOf(env), clock, log, signal })
  const network = own.use(await openNetwork({ directory: join(directory, 'n'), clock, random, log }))
  const connect: Parts['connect'] = ({ channel, opening }, { token, signal }) =>
    connectGuest({
      socket: channel,
      token: token === '' ? undefined : token,
      random,
      clock,
      signal,
      ...(opening === undefined ? {} : { opening }),
    })
  const common = { blocks, vmm, network, clock, random, log }
  const sandboxes = own.use(
    await openSandboxes({
      ...common,
      connect,
      boot,
      directory,
      starts: availableParallelism(),
      ahead: aheadOf(env),
      freeMemory,
    }),
  )
  const imagesDirectory = join(directory, 'images')
  const builder = templateBuilder({
    ...common,
    connect,
    boot,
    directory,
    imagesDirectory,
    arch,
    authFile: env['REGISTRY_AUTH_FILE'],
  })
  return { sandboxes, builder, measure: (how) => measure({ sandboxes, blocks }, how) }
}

async function measure(
  { sandboxes, blocks }: { sandboxes: Sandboxes; blocks: BlockServer },
  { signal }: { signal: AbortSignal },
): Promise<NodeMeasures> {
  // One of an earlier version goes on until it ends, and does not know the question.
  const usage = await blocks.ask('usage', {}, { signal }).catch(() => undefined)
  signal.throwIfAborted()
  const said = { starts: sandboxes.facts().starts, freeMemory: freeMemory() }
  if (!usage) return said
  const { bytes, fetchedBytes, downloadedBytes, readBytes, writtenBytes } = usage
  return {
    ...said,
    blocks: { wholeBytes: bytes - fetchedBytes, fetchedBytes, downloadedBytes, readBytes, writtenBytes },
  }
}

/** `TUTTI_CACHE=200GiB`. */
function cacheLimitOf(env: OfferOptions['env']): number | undefined {
  const text = env['TUTTI_CACHE'] || undefined
  const bytes = text === undefined ? undefined : parseSize(text)
  if (text === undefined || bytes !== undefined) return bytes
  throw new Fault('invalid', `TUTTI_CACHE is a size such as 200GiB, not "${text}"`)
}

/** `TUTTI_AHEAD=8,2`: VMs of a popular build that run ahead, and VMMs that wait for any snapshot. */
function aheadOf(env: OfferOptions['env']): Parts['ahead'] {
  const text = env['TUTTI_AHEAD'] ?? '8,2'
  const match = /^(\d{1,3}),(\d{1,3})$/.exec(text)
  if (match) return { running: Number(match[1]), waiting: Number(match[2]) }
  throw new Fault('invalid', `TUTTI_AHEAD is two whole numbers such as 8,2, not "${text}"`)
}

/** What the kernel says can be had without swapping; `os.freemem` counts less. */
function freeMemory(): number {
  try {
    const match = /^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'utf8'))
    return match ? Number(match[1]) * 1024 : freemem()
  } catch {
    return freemem()
  }
}
