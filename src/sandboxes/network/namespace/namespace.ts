import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock } from '../../../kit/clock.ts'
import type { Log } from '../../../kit/log.ts'
import type { Random } from '../../../kit/random.ts'
import { parseAddress } from '../../../model/egress.ts'
import { Fault } from '../../../model/fault.ts'
import type { SandboxLink, SandboxNetwork } from '../../network.ts'
import { isOurs } from '../carry.ts'
import { openDenials } from '../denials.ts'
import { type Note, openNotes } from '../notes.ts'
import { openOriginalDestination } from '../original-destination.ts'
import { changePolicy, openPlace, type Place } from '../place.ts'
import { compilePolicy, denyAll } from '../policy.ts'
import { openProxy } from '../proxy.ts'
import { type Resolve, resolveWithSystem } from '../resolve.ts'
import { openNameServer } from '../resolver.ts'
import { claimBlock, releaseBlock } from './block.ts'
import { type DeniedPacket, watchDeniedPackets } from './denied-packets.ts'
import { guest, namespaceOf, slotCount, slotOf } from './layout.ts'
import { devicesOf, forwardPackets, isThere, whyForwardBlocked } from './machine.ts'
import { hostRules, policyRules } from './rules.ts'
import { closeScript, openScript, rulesScript, runScript, sweepScript } from './script.ts'

/**
 * A network namespace for every sandbox: a tap for its VM inside, a cable to the host, and a packet filter between the two
 * that the guest cannot see. What is allowed by address goes straight; what only a name can judge goes through the egress
 * proxy; names are answered by our own nameserver. All of that but the two servers stays when the agent goes.
 */
export interface NamespaceNetworkOptions {
  clock: Clock
  random: Random
  log: Log
  /** Keeps which sandbox has which place. */
  directory: string
  /** Private addresses for the cables; every agent on the machine takes 1,024 of them. */
  pool?: string
  /** How names of the world are looked up. */
  resolve?: Resolve
}

export const defaultPool = '10.198.0.0/16'

/** Disposing lets go: places stay for `adopt`, and when there are none nothing stays. */
export async function openNamespaceNetwork({
  clock,
  random,
  log,
  directory,
  pool = defaultPool,
  resolve = resolveWithSystem,
}: NamespaceNetworkOptions): Promise<SandboxNetwork & AsyncDisposable> {
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const block = await claimBlock(pool, directory)
  const notes = await openNotes(join(directory, 'places'))
  const places = new Map<number, Place>()
  const links = new Map<string, SandboxLink>()
  let next = 1 + Math.floor(random.fraction() * slotCount)

  await runScript(`exec ip address replace ${block.gateway}/32 dev lo`, 'giving this machine an address for sandboxes')
  await forwardPackets(log)
  const blocked = await whyForwardBlocked()
  if (blocked !== undefined)
    log.warn(blocked, 'sandboxes may reach nothing: the packet filter of this machine is in the way')
  await using undo = new AsyncDisposableStack()
  const first = parseAddress(block.gateway) ?? 0
  const placeAt = (address = '') => places.get(((parseAddress(address) ?? first) - first) >> 1)
  const placeOf = ({ remoteAddress }: { remoteAddress?: string | undefined }) => placeAt(remoteAddress)
  const shared = { host: block.gateway, clock, log, resolve, placeAt, placeOf }
  const dns = undo.use(await openNameServer(shared))
  const proxy = undo.use(await openProxy({ ...shared, destinationOf: openOriginalDestination() }))
  await runScript(
    `exec nft -f - <<'RULES'\n${hostRules(block, { dns: dns.port, proxy: proxy.port })}\nRULES\n`,
    'setting the packet filter',
  )
  undo.use(await watchDeniedPackets({ table: block.table, clock, log, onDenied: noteDenied }))
  const owned = undo.move()

  return {
    name: 'namespace',
    open: async (id, { signal }) => {
      signal.throwIfAborted()
      if (notes.all.has(id)) throw new Fault('conflict', `the sandbox ${id} has a place on the network already`)
      const note: Note = { id, slot: takeSlot(), egress: { mode: 'deny' } }
      const slot = slotOf(block, note.slot)
      await notes.write(note)
      try {
        await runScript(openScript(id, block, slot), `making a network for the sandbox ${id}`)
        signal.throwIfAborted()
      } catch (error) {
        await remove(note)
        throw error
      }
      return enter(note, policyRules(denyAll))
    },
    adopt: async (id) => {
      const note = notes.all.get(id)
      if (note === undefined) return undefined
      const known = links.get(id)
      if (known !== undefined) return known
      if (await isThere(id, slotOf(block, note.slot))) return enter(note)
      await remove(note)
      return undefined
    },
    reclaim: async (keep) => {
      for (const note of [...notes.all.values()])
        if (!keep.has(note.id)) await (links.get(note.id)?.close() ?? remove(note))
      const used = new Set([...notes.all.values()].map((note) => slotOf(block, note.slot).device))
      for (const device of await devicesOf(block.devices))
        if (!used.has(device)) await runScript(sweepScript(device), `removing the interface ${device}`)
    },
    async [Symbol.asyncDispose]() {
      for (const place of places.values()) place.denials.end()
      await owned.disposeAsync()
      if (notes.all.size > 0) return
      await runScript(
        `nft delete table ip ${block.table}; ip address delete ${block.gateway}/32 dev lo`,
        'removing the packet filter',
      ).catch((error: unknown) => log.warn({ error }, 'the network for sandboxes was not removed'))
      await releaseBlock(block)
    },
  }

  /** Round the clock, so that late packets of an old sandbox do not meet a new one. */
  function takeSlot(): number {
    const used = new Set([...notes.all.values()].map((note) => note.slot))
    if (used.size >= slotCount)
      throw new Fault('exhausted', `all ${slotCount} places on the network of this node are taken; end a sandbox first`)
    do next = (next % slotCount) + 1
    while (used.has(next))
    return next
  }

  /** `applied`: the rules it surely has, so that setting them again costs nothing. */
  function enter(note: Note, applied?: string): SandboxLink {
    const { id } = note
    let rulesNow = applied
    const place = openPlace(id, openDenials(clock), note.egress)
    places.set(note.slot, place)
    let closing: Promise<void> | undefined
    let last = Promise.resolve()
    const link: SandboxLink = {
      backend: { kind: 'tap', device: guest.tap, namespace: namespaceOf(id) },
      identity: identityOfGuest(),
      denials: place.denials,
      allow: (egress) => {
        const turn = last.then(async () => {
          if (closing !== undefined) throw new Fault('conflict', `the network of the sandbox ${id} is closed`)
          const policy = compilePolicy(egress)
          const rules = policyRules(policy)
          changePolicy(place, policy)
          if (rules !== rulesNow) await runScript(rulesScript(id, rules), `setting what the sandbox ${id} may reach`)
          rulesNow = rules
          await notes.write({ ...note, egress })
        })
        last = turn.catch(() => {})
        return turn
      },
      close: () => {
        closing ??= last.then(async () => {
          changePolicy(place, denyAll)
          await remove(note).catch((error: unknown) => {
            closing = undefined
            throw error
          })
          place.denials.end()
          places.delete(note.slot)
          links.delete(id)
        })
        return closing
      },
    }
    links.set(id, link)
    return link
  }

  async function remove(note: Note): Promise<void> {
    await runScript(closeScript(note.id, slotOf(block, note.slot)), `removing the network of the sandbox ${note.id}`)
    await notes.remove(note.id)
  }

  function noteDenied({ device, address, rest }: DeniedPacket): void {
    const place = places.get(Number(device.slice(block.devices.length)))
    if (!device.startsWith(block.devices) || place === undefined) return
    const isHost = address === guest.gateway || isOurs(address)
    const reason = isHost ? `${address} is this machine, which sandboxes never reach` : place.policy.whyNot(address)
    place.denials.note({ destination: `${address}${rest}`, reason })
  }
}

export function identityOfGuest(): NonNullable<SandboxLink['identity']> {
  const { mac, address, prefix, gateway } = guest
  return { mac, address, prefix, gateway, nameservers: [gateway] }
}
