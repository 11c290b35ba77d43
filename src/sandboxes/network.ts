import type { GuestIdentity } from '../guest/channel.ts'
import type { Egress } from '../model/sandbox.ts'
import type { NetworkBackend } from '../vmm/vmm.ts'

/**
 * The seam to how sandboxes reach the world. Nothing comes in but through Tutti; what goes out is denied until `allow`
 * says otherwise. Two implementations: namespaces with tap and nftables where we are root, user mode where we are not.
 */
export interface SandboxNetwork {
  readonly name: 'namespace' | 'user' | 'none'
  /** Ends what earlier agents left and no sandbox in `keep` holds. */
  reclaim(keep: ReadonlySet<string>): Promise<void>
  /** A place on the network, with everything denied; ready to be given to a VM. May be made ahead. */
  open(id: string, options: { signal: AbortSignal }): Promise<SandboxLink>
  /** Finds the place that an earlier agent opened. */
  adopt(id: string): Promise<SandboxLink | undefined>
}

export interface SandboxLink {
  readonly backend: NetworkBackend
  readonly identity: GuestIdentity['network']
  /** Replaces the policy at once, also for a running sandbox; connections that it denies now are cut. */
  allow(egress: Egress): Promise<void>
  /** What was denied, as it happens. */
  readonly denials: AsyncIterable<Denial>
  /** Frees everything. Idempotent. */
  close(): Promise<void>
}

export interface Denial {
  /** Ms since the epoch. */
  at: number
  /** Where to: `93.184.216.34:443/tcp`, or `example.org:443` where a name was asked for. */
  destination: string
  /** One sentence: which rule, or that none allows it. */
  reason: string
}
