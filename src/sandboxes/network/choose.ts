import { execFile } from 'node:child_process'
import { constants } from 'node:fs'
import { access } from 'node:fs/promises'
import { promisify } from 'node:util'
import { whyForwardBlocked } from './namespace/machine.ts'
import { whyNoOriginalDestination } from './original-destination.ts'

const run = promisify(execFile)

/**
 * Finds out which network this machine can give to sandboxes, by trying, and says why the better ones are not there.
 */
export interface NetworkChoice {
  kind: 'namespace' | 'user' | 'restricted'
  /** Why nothing better, and what to do about it: one sentence each. Absent where the best was chosen and works. */
  reason?: string
  remedy?: string
}

export async function chooseNetwork(): Promise<NetworkChoice> {
  const noNamespaces = await whyNoNamespaces()
  if (noNamespaces === undefined) return { kind: 'namespace', ...(await whyForwardBlocked()) }
  const noUser = await whyNoUserNetwork()
  if (noUser === undefined) return { kind: 'user', ...noNamespaces }
  const reason = `${noNamespaces.reason}; ${noUser.reason}`
  return { kind: 'restricted', reason, remedy: noUser.remedy }
}

interface Lack {
  reason: string
  remedy: string
}

export async function whyNoNamespaces(): Promise<Lack | undefined> {
  if (process.platform !== 'linux') return { reason: 'network namespaces need Linux', remedy: 'run the agent on Linux' }
  if (process.getuid?.() !== 0)
    return { reason: 'network namespaces of their own need root', remedy: 'run the agent as root' }
  const missing = await lackOf({ ip: 'iproute2', nft: 'nftables', nsenter: 'util-linux', setpriv: 'util-linux' })
  if (missing !== undefined) return missing
  const noDestination = whyNoOriginalDestination()
  if (noDestination !== undefined) return { reason: noDestination, remedy: 'run the agent with Node 26.1 or newer' }
  return tryTo(
    `unshare --net sh -ec 'ip link add one type veth peer name two; ip tuntap add dev three mode tap; nft -f - <<RULES
table ip try {
  chain refuse { type filter hook forward priority filter; policy drop; limit rate 1/second dup to 10.198.0.0 device "one"; meta l4proto tcp reject with tcp reset; }
  chain nat { type nat hook postrouting priority srcnat; ip saddr 10.198.0.1 snat to 10.198.0.2; }
}
RULES'`,
    'namespaces, interfaces or packet filters cannot be made',
  )
}

export async function whyNoUserNetwork(): Promise<Lack | undefined> {
  if (process.platform !== 'linux')
    return { reason: 'a filtered network without root needs Linux', remedy: 'run the agent on Linux' }
  const missing = await lackOf({
    passt: 'passt',
    ip: 'iproute2',
    nft: 'nftables',
    unshare: 'util-linux',
    nsenter: 'util-linux',
  })
  if (missing !== undefined) return missing
  const noDestination = whyNoOriginalDestination()
  if (noDestination !== undefined) return { reason: noDestination, remedy: 'run the agent with Node 26.1 or newer' }
  return tryTo(
    `unshare --user --net --map-root-user sh -ec 'ip link set lo up; nft -f - <<RULES
table ip try {
  chain nat { type nat hook output priority -100; meta l4proto tcp redirect to :1; }
}
RULES'`,
    'this user may not make namespaces of its own',
  )
}

async function lackOf(programs: Record<string, string>): Promise<Lack | undefined> {
  const path = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`.split(':')
  const isHere = (program: string) =>
    Promise.any(path.map((directory) => access(`${directory}/${program}`, constants.X_OK))).then(
      () => true,
      () => false,
    )
  for (const [program, from] of Object.entries(programs))
    if (!(await isHere(program)))
      return { reason: `the program "${program}" is missing`, remedy: `install the package ${from}` }
  return undefined
}

async function tryTo(script: string, what: string): Promise<Lack | undefined> {
  try {
    await run('sh', ['-ec', script])
    return undefined
  } catch (error) {
    const said = String((error as { stderr?: string }).stderr ?? '')
      .trim()
      .split('\n')[0]
    const remedy = 'see docs/network.md for what the kernel must allow'
    return { reason: `${what}${said ? `: ${said}` : ''}`, remedy }
  }
}
