import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { Clock } from '../../kit/clock.ts'
import { BuildId } from '../../model/ids.ts'
import type { DiskThreads } from './disk-threads.ts'
import { canMountFuse, cleanUp, type FuseMount, findMount, mountFuse, mountPath } from './fuse-mount.ts'
import type { HeldMemory, Memories } from './memories.ts'

/**
 * How long nobody may have waited before the rest is fetched, longer than an emulated guest works between two pages; and how
 * often that is waited for.
 */
const quietMs = 2000
const maximumRounds = 15

/** Who has it, kept for the next block server: the mount outlives this one. */
const LazyNote = z.strictObject({ holders: z.array(z.string().max(64)) })

interface LazyMemory {
  directory: string
  mount: FuseMount
  holders: Set<string>
}

export interface LazyMemoriesOptions {
  directory: string
  memories: Memories
  threads: DiskThreads
  clock: Clock
  /** What a clone reads of its disk is for when it has what it needs of its memory. */
  prefetchDisk: (build: BuildId, options: { signal: AbortSignal }) => Promise<void>
  /** Whether they are completed in the background. */
  backgroundFill: boolean
}

/**
 * Memories that are given out before they have arrived: a file that fetches what is touched, while the rest comes in the
 * background. Once it is all there, whoever comes next is given the complete one.
 */
export class LazyMemories {
  readonly #options: LazyMemoriesOptions
  readonly #open = new Map<BuildId, Promise<LazyMemory>>()
  readonly #end = new AbortController()
  readonly isPossible: boolean = canMountFuse()

  constructor(options: LazyMemoriesOptions) {
    this.#options = options
  }

  /** Takes up the mounts that are in use, and takes away those that nobody serves any more. */
  async resume(): Promise<void> {
    const { directory, memories } = this.#options
    await mkdir(directory, { recursive: true, mode: 0o700 })
    for (const name of readdirSync(directory)) {
      const own = join(directory, name)
      const mount = findMount(own)
      const build = BuildId.safeParse(name)
      const holders = readHolders(own)
      const held =
        mount && build.success
          ? (await Promise.all(holders.map((holder) => memories.open(build.data, holder))).catch(() => []))[0]
          : undefined
      if (mount === undefined || held === undefined || !build.success) {
        await cleanUp(own)
        rmSync(own, { recursive: true, force: true })
        continue
      }
      await this.#serve(held, own)
      this.#open.set(build.data, Promise.resolve({ directory: own, mount, holders: new Set(holders) }))
    }
  }

  async open(held: HeldMemory, holder: string): Promise<string> {
    let opening = this.#open.get(held.build)
    if (opening === undefined) {
      opening = this.#start(held)
      this.#open.set(held.build, opening)
      opening.catch(() => this.#open.delete(held.build))
    }
    const lazy = await opening
    lazy.holders.add(holder)
    keepHolders(lazy)
    return lazy.mount.path
  }

  /** Where a build's memory is shown, if it is. */
  pathOf(build: BuildId): string {
    return mountPath(join(this.#options.directory, build))
  }

  async isHeld(build: BuildId, holder: string): Promise<boolean> {
    return (await this.#open.get(build)?.catch(() => undefined))?.holders.has(holder) ?? false
  }

  async release(build: BuildId, holder: string): Promise<void> {
    const lazy = await this.#open.get(build)
    if (lazy === undefined || !lazy.holders.delete(holder)) return
    keepHolders(lazy)
    if (lazy.holders.size > 0) return
    this.#open.delete(build)
    await lazy.mount.unmount()
    await this.#options.threads.close(exportName(build))
    rmSync(lazy.directory, { recursive: true, force: true })
  }

  /** First what clones are known to touch; the rest when nobody waits for anything, so that it is in nobody's way. */
  async #fill({ build, filler, prefetch, complete }: HeldMemory): Promise<void> {
    const { signal } = this.#end
    await filler.bring(prefetch, { signal })
    await this.#options.prefetchDisk(build, { signal })
    // One wait may take long where the store is slow.
    for (let seen = -1, rounds = 0; rounds < maximumRounds; rounds += 1) {
      if (seen === filler.asked && filler.waiting === 0) break
      seen = filler.asked
      await this.#options.clock.sleep(quietMs, { signal })
    }
    await complete()
  }

  [Symbol.dispose](): void {
    this.#end.abort()
  }

  async #start(held: HeldMemory): Promise<LazyMemory> {
    const directory = join(this.#options.directory, held.build)
    await mkdir(directory, { recursive: true, mode: 0o700 })
    const socket = await this.#serve(held, directory)
    const { size } = held.image
    const mount = await mountFuse({ directory, socket, size, clock: this.#options.clock })
    return { directory, mount, holders: new Set() }
  }

  async #serve(held: HeldMemory, directory: string): Promise<string> {
    const socket = join(directory, 's')
    const base = { ...held.local, key: exportName(held.build) }
    const size = held.image.size
    await this.#options.threads.open(exportName(held.build), { socket, overlay: undefined, size, base, bootId: 0n })
    if (this.#options.backgroundFill) this.#fill(held).catch(() => {}) // what is missing is fetched when it is touched
    return socket
  }
}

const prefix = 'memory-'

function exportName(build: BuildId): string {
  return `${prefix}${build}`
}

/** The build whose memory is asked for under this key; undefined for other keys. */
export function buildOfKey(key: string): BuildId | undefined {
  return key.startsWith(prefix) ? (key.slice(prefix.length) as BuildId) : undefined
}

function keepHolders({ directory, holders }: LazyMemory): void {
  writeFileSync(join(directory, 'holders.json'), JSON.stringify({ holders: [...holders] }), { mode: 0o600 })
}

function readHolders(directory: string): string[] {
  try {
    return LazyNote.parse(JSON.parse(readFileSync(join(directory, 'holders.json'), 'utf8'))).holders
  } catch {
    return []
  }
}
