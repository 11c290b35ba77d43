import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { extname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import { type Clock, deadline } from '../../../kit/clock.ts'
import type { Log } from '../../../kit/log.ts'
import { Fault } from '../../../model/fault.ts'
import type { SandboxLink, SandboxNetwork } from '../../network.ts'
import { openDenials } from '../denials.ts'
import { type DeniedPacket, watchDeniedPackets } from '../namespace/denied-packets.ts'
import { guest } from '../namespace/layout.ts'
import { identityOfGuest } from '../namespace/namespace.ts'
import { type Note, openNotes } from '../notes.ts'
import { changePolicy, openPlace, type Place } from '../place.ts'
import { compilePolicy, denyAll } from '../policy.ts'
import { type Resolve, resolveWithSystem } from '../resolve.ts'
import { places as files, mostSlots, slotAt, sourceOf } from './island.ts'
import { endProgram, isRunning, type Program, startProgram } from './programs.ts'
import { openRelay } from './relay.ts'

/**
 * Without root: one island for all sandboxes of this agent, a user and network namespace that leads nowhere. On it a passt
 * for each sandbox turns the frames of its VM into connections, and everything that they try ends at a program that hands
 * it to the agent, which judges it and makes the real connection. So nothing can leave but by the agent's own doing; TCP
 * and the names of our nameserver are all that it does.
 */
export interface UserNetworkOptions {
  clock: Clock
  log: Log
  /** Short: it holds sockets, whose paths are cut at 108 bytes. */
  directory: string
  resolve?: Resolve
}

const readyMs = 15_000

/** Disposing lets go: places stay for `adopt`, and when there are none nothing stays. */
export async function openUserNetwork({
  clock,
  log,
  directory,
  resolve = resolveWithSystem,
}: UserNetworkOptions): Promise<SandboxNetwork & AsyncDisposable> {
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const notes = await openNotes(join(directory, 'places'))
  const places = new Map<number, Place>()
  const links = new Map<string, SandboxLink>()
  const placeAt = (source: string) => places.get(slotAt(source))
  const socketOf = (id: string) => join(directory, `${id}.sock`)
  /** passt writes its process id when it listens; the socket alone is there too early. */
  const readyOf = (id: string) => join(directory, `${id}.pid`)
  if (socketOf('x'.repeat(20)).length > 107)
    throw new Fault('invalid', `the directory ${directory} is too long a name for the sockets of sandboxes in it`)

  const known = await readProgram(join(directory, files.self))
  const island = (await isRunning(known)) && known !== undefined ? known : await settle()
  const enterIsland = ['nsenter', '--preserve-credentials', '--user', '--net', `--target=${island.pid}`]
  await using undo = new AsyncDisposableStack()
  undo.use(await openRelay(join(directory, files.relay), { clock, log, resolve, placeAt }))
  undo.use(await watchDeniedPackets({ table: 'tutti', clock, log, onDenied: noteDenied, through: enterIsland }))
  const owned = undo.move()

  return {
    name: 'user',
    open: async (id, { signal }) => {
      signal.throwIfAborted()
      if (notes.all.has(id)) throw new Fault('conflict', `the sandbox ${id} has a place on the network already`)
      let note: Note = { id, slot: freeSlot(), egress: { mode: 'deny' } }
      await notes.write(note)
      try {
        note = { ...note, carrier: await startProgram(passtFor(note), join(directory, `${id}.log`)) }
        await notes.write(note)
        await appears(readyOf(id), note.carrier, join(directory, `${id}.log`), signal)
      } catch (error) {
        await remove(note)
        throw error
      }
      return enter(note)
    },
    adopt: async (id) => {
      const note = notes.all.get(id)
      if (note === undefined || links.has(id)) return links.get(id)
      if (await isRunning(note.carrier)) return enter(note)
      await remove(note)
      return undefined
    },
    reclaim: async (keep) => {
      for (const note of [...notes.all.values()])
        if (!keep.has(note.id)) await (links.get(note.id)?.close() ?? remove(note))
    },
    async [Symbol.asyncDispose]() {
      for (const place of places.values()) place.denials.end()
      await owned.disposeAsync()
      if (notes.all.size > 0) return
      await endProgram(island, clock)
      for (const name of [files.self, files.ready, files.relay, files.log])
        await rm(join(directory, name), { force: true })
    },
  }

  /** Makes the island. Whatever was on an old one has lost its way out and is ended. */
  async function settle(): Promise<Program> {
    for (const note of [...notes.all.values()]) await remove(note)
    await rm(join(directory, files.ready), { force: true })
    const program = fileURLToPath(new URL(`inside${extname(import.meta.filename)}`, import.meta.url))
    const node = [process.execPath, '--disable-warning=ExperimentalWarning', program, directory]
    const inside = await startProgram(
      ['unshare', '--user', '--net', '--map-root-user', ...node],
      join(directory, files.log),
    )
    await writeFile(join(directory, files.self), JSON.stringify(inside), { mode: 0o600 })
    await appears(join(directory, files.ready), inside, join(directory, files.log), new AbortController().signal)
    return inside
  }

  function passtFor({ id, slot }: Note): string[] {
    const source = sourceOf(slot)
    const { gateway, address, prefix, gatewayMac } = guest
    const passt = [
      ...['passt', '--foreground', '--quiet', '--ipv4-only', '--no-map-gw', '--no-dhcp', '--no-ndp', '--no-ra'],
      ...[
        '--socket',
        socketOf(id),
        '--pid',
        readyOf(id),
        '--address',
        address,
        '--netmask',
        String(prefix),
        '--gateway',
        gateway,
      ],
      ...['--mac-addr', gatewayMac, '--outbound', source, '--dns', gateway],
    ]
    return [...enterIsland, 'sh', '-c', `ip address replace ${source}/32 dev lo && exec "$@"`, 'sh', ...passt]
  }

  async function appears(
    path: string,
    program: Program | undefined,
    complaints: string,
    signal: AbortSignal,
  ): Promise<void> {
    using limit = deadline(clock, readyMs, signal)
    while (((await stat(path).catch(() => undefined))?.size ?? 0) === 0) {
      if (!(await isRunning(program))) {
        const said = (await readFile(complaints, 'utf8').catch(() => '')).trim().split('\n').slice(-3).join('; ')
        throw new Fault('unavailable', `the network for a sandbox did not start: ${said || 'its program ended'}`)
      }
      await clock.sleep(3, { signal: limit.signal })
    }
  }

  function freeSlot(): number {
    const used = new Set([...notes.all.values()].map((note) => note.slot))
    for (let slot = 1; slot <= mostSlots; slot += 1) if (!used.has(slot)) return slot
    throw new Fault('exhausted', `all ${mostSlots} places on the network of this node are taken; end a sandbox first`)
  }

  function enter(note: Note): SandboxLink {
    const { id } = note
    const place = openPlace(id, openDenials(clock), note.egress)
    places.set(note.slot, place)
    let closing: Promise<void> | undefined
    const link: SandboxLink = {
      backend: { kind: 'stream', socket: socketOf(id) },
      identity: identityOfGuest(),
      denials: place.denials,
      allow: async (egress) => {
        if (closing !== undefined) throw new Fault('conflict', `the network of the sandbox ${id} is closed`)
        changePolicy(place, compilePolicy(egress))
        await notes.write({ ...note, egress })
      },
      close: () => {
        closing ??= remove(note).then(() => {
          changePolicy(place, denyAll)
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

  async function remove({ id, carrier }: Note): Promise<void> {
    await endProgram(carrier, clock)
    for (const file of [socketOf(id), readyOf(id), join(directory, `${id}.log`)]) await rm(file, { force: true })
    await notes.remove(id)
  }

  function noteDenied({ source, address, rest }: DeniedPacket): void {
    const place = placeAt(source)
    const isTcpOnly = place?.policy.mayReach(address) === true
    const reason = isTcpOnly ? 'without root, sandboxes reach the world by TCP only' : place?.policy.whyNot(address)
    if (reason !== undefined) place?.denials.note({ destination: `${address}${rest}`, reason })
  }
}

async function readProgram(file: string): Promise<Program | undefined> {
  const schema = z.strictObject({ pid: z.int().min(1), began: z.string().max(30) })
  const text = await readFile(file, 'utf8').catch(() => 'null')
  return schema.safeParse(JSON.parse(text)).data
}
