import { readFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import type { BlockList } from 'node:net'
import { availableParallelism, freemem } from 'node:os'
import { join } from 'node:path'
import type { SandboxParts } from '../../agent/sandboxes/offer.ts'
import type { BlockServer } from '../../blocks/server/protocol.ts'
import { readRanges } from '../../build/copy/reachable.ts'
import { connectGuest } from '../../guest/channel/connect.ts'
import { Fault } from '../../model/fault.ts'
import { parseSize } from '../../model/quantity.ts'
import { openSandboxes } from '../../sandboxes/engine.ts'
import type { Parts } from '../../sandboxes/parts.ts'
import type { Sandboxes } from '../../sandboxes/sandboxes.ts'
import { bootFiles } from '../../vmm/boot/boot-files.ts'
import type { Vmm } from '../../vmm/vmm.ts'
import type { NodeMeasures } from '../../wire/sandbox.ts'
import { keepBlockServer } from './block-server.ts'
import { collectBuilds } from './collect-builds.ts'
import { findGuestAgent, guestAgentRemedy } from './guest-agent.ts'
import { hugePages } from './huge-pages.ts'
import { openNetwork } from './network.ts'
import type { OfferOptions } from './offer.ts'
import { templateBuilder } from './template-builder.ts'
import { diskOf, trimCache } from './trim-cache.ts'

/** Opens what a node's sandboxes consist of; `own` gets what is to be let go of. */
export async function openParts(
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
    fetchFrom: fetchFromOf(env),
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
  const huge = hugePages()
  const said = {
    starts: sandboxes.facts().starts,
    freeMemory: freeMemory(),
    ...(huge === undefined ? {} : { hugePages: huge }),
  }
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

/** `TUTTI_FETCH_FROM=10.1.0.0/16,192.168.7.5`: private addresses that ADD of a Dockerfile may fetch from. */
function fetchFromOf(env: OfferOptions['env']): BlockList | undefined {
  const text = env['TUTTI_FETCH_FROM'] || undefined
  const ranges = text === undefined ? undefined : readRanges(text)
  if (text === undefined || ranges) return ranges
  throw new Fault('invalid', `TUTTI_FETCH_FROM is a list of ranges such as 10.1.0.0/16,192.168.7.5, not "${text}"`)
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
