import { spawn } from 'node:child_process'
import { text } from 'node:stream/consumers'
import { Fault } from '../../../model/fault.ts'
import { type Block, guest, namespaceOf, type Slot } from './layout.ts'
import { slotRules } from './rules.ts'

/**
 * What is done to the kernel, as shell text: one process starts everything, because starting processes is what takes the
 * time. Every name in the text is ours; an id has been checked before it came here.
 */
export function openScript(id: string, block: Block, slot: Slot): string {
  const namespace = namespaceOf(id)
  return `set -e
ip -batch - <<'HOST'
netns add ${namespace}
link add ${slot.device} type veth peer name up0 netns ${namespace}
link set ${slot.device} addrgenmode none up
route replace ${slot.cidr} dev ${slot.device}
HOST
nsenter --net=/run/netns/${namespace} sh -e <<'INSIDE'
echo 1 > /proc/sys/net/ipv4/ip_forward
ip -batch - <<'LINKS'
tuntap add dev ${guest.tap} mode tap
link set ${guest.tap} address ${guest.gatewayMac} addrgenmode none up
address add ${guest.gateway}/${guest.prefix} dev ${guest.tap}
link set up0 addrgenmode none up
address add ${slot.direct}/32 dev up0
address add ${slot.judged}/32 dev up0
route add default via ${block.gateway} dev up0 onlink
LINKS
nft -f - <<'RULES'
${slotRules(block, slot)}
RULES
INSIDE
`
}

/** Replaces rules inside a namespace. */
export function rulesScript(id: string, rules: string): string {
  return `exec nsenter --net=/run/netns/${namespaceOf(id)} nft -f - <<'RULES'\n${rules}\nRULES\n`
}

/** The interface goes first: what still runs in the namespace keeps the namespace, and must not keep a way out. */
export function closeScript(id: string, slot: Slot): string {
  return `if grep -q '^ *${slot.device}:' /proc/net/dev; then ip link delete ${slot.device}; fi
if [ -e /run/netns/${namespaceOf(id)} ]; then ip netns delete ${namespaceOf(id)}; fi
`
}

/** Removes an interface that no note speaks of, with the namespace at its other end when that is one of ours. */
export function sweepScript(device: string): string {
  return `namespace=$(ip link show dev ${device} | sed -n 's/.*link-netns \\(tutti-[0-9a-z]*\\).*/\\1/p')
ip link delete ${device}
if [ -n "$namespace" ]; then ip netns delete "$namespace"; fi
`
}

/** Runs shell text; rejects with what went wrong, in one sentence. */
export async function runScript(script: string, what: string): Promise<string> {
  const child = spawn('sh', ['-s'], { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, LC_ALL: 'C' } })
  const exited = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  child.stdin.on('error', () => {})
  child.stdin.end(script)
  const [code, said, complaint] = await Promise.all([exited, text(child.stdout), text(child.stderr)])
  if (code === 0) return said
  const why = complaint.trim().split('\n').filter(Boolean).slice(0, 3).join('; ') || `exit code ${code}`
  throw new Fault('unavailable', `${what} failed: ${why}`)
}
