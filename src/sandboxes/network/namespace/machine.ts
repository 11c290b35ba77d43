import { readFile, stat, writeFile } from 'node:fs/promises'
import { z } from 'zod'
import type { Log } from '../../../kit/log.ts'
import { namespaceOf, type Slot } from './layout.ts'
import { runScript } from './script.ts'

/** What the kernel says of the places on the network, and the one thing that has to be set on the whole machine. */
export async function isThere(id: string, slot: Slot): Promise<boolean> {
  const namespace = await stat(`/run/netns/${namespaceOf(id)}`).catch(() => undefined)
  return namespace !== undefined && (await devicesOf(slot.device)).includes(slot.device)
}

/** Our interfaces: those whose names begin as ours do. Not from /sys, which may show another namespace than ours. */
export async function devicesOf(prefix: string): Promise<string[]> {
  const lines = (await readFile('/proc/net/dev', 'utf8')).split('\n')
  return lines.flatMap((line) => /^\s*([^:\s]+):/.exec(line)?.[1] ?? []).filter((name) => name.startsWith(prefix))
}

/** Packets of sandboxes pass through this machine, which it must be told to allow. */
export async function forwardPackets(log: Log): Promise<void> {
  const file = '/proc/sys/net/ipv4/ip_forward'
  if ((await readFile(file, 'utf8')).trim() === '1') return
  await writeFile(file, '1')
  log.info({}, 'this machine forwards IPv4 packets from now on, which the network of sandboxes needs')
}

/**
 * Somebody else's filter that drops what is forwarded unless a rule of theirs lets it pass, as Docker sets it up: no rule of
 * ours can undo that.
 */
export async function whyForwardBlocked(): Promise<{ reason: string; remedy: string } | undefined> {
  const listed = await runScript('exec nft -j list chains', 'listing packet filters').catch(() => '{}')
  const { data } = Chains.safeParse(JSON.parse(listed))
  const chain = data?.nftables
    .flatMap((entry) => entry.chain ?? [])
    .find((one) => one.hook === 'forward' && one.policy === 'drop' && ['ip', 'inet'].includes(one.family))
  if (chain === undefined) return undefined
  return {
    reason: `table ${chain.family} ${chain.table}, chain ${chain.name} drops forwarded packets unless its own rules accept them`,
    remedy: 'let it accept packets from and to interfaces named ttn*; for Docker, in its chain DOCKER-USER',
  }
}

const Chains = z.object({
  nftables: z.array(
    z.object({
      chain: z
        .object({
          family: z.string(),
          table: z.string(),
          name: z.string(),
          hook: z.string().optional(),
          policy: z.string().optional(),
        })
        .optional(),
    }),
  ),
})
