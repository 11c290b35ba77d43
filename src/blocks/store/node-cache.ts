import { stat } from 'node:fs/promises'
import { Fault } from '../../model/fault.ts'
import type { Manifest } from '../manifest.ts'
import { buildKey, packKey } from '../objects/keys.ts'
import type { ObjectStore } from '../objects.ts'
import { buildIds } from '../operations/list.ts'
import { readManifest } from './builds.ts'
import type { LocalPack, LocalPacks } from './local-packs.ts'

/**
 * How much of a node's disk packs may take. Above the high mark the coldest ones go until the low mark is reached: those
 * that were fetched, and those that were made here and lie in the object store too, together with every build that needs
 * them. What is pinned stays, and so does what is the only copy.
 */
export interface NodeCache {
  /** Keeps a build's packs here until disposed; the same build may be pinned often. */
  pin(build: Manifest): Disposable
  /** While a build is made, nothing whole goes: it may rely on any chunk that is here. */
  hold(basedOn: Manifest | undefined): Disposable
  usage(): Promise<CacheUsage>
  trim(budget: CacheBudget): Promise<TrimReport>
}

export interface CacheBudget {
  highBytes: number
  lowBytes: number
}

export interface CacheUsage {
  /** On disk, of whole packs and of those parts that were fetched of others. */
  bytes: number
  /** Of them, in packs that were fetched. */
  fetchedBytes: number
  /** Of them, in packs of builds in use. */
  pinnedBytes: number
}

export interface TrimReport {
  bytesBefore: number
  bytesAfter: number
  removed: string[]
}

export function makeNodeCache({
  packs,
  objects,
  upstream,
}: {
  packs: LocalPacks
  /** The directory's own. */
  objects: ObjectStore
  upstream: ObjectStore | undefined
}): NodeCache {
  const pins = new Map<string, number>()
  let writers = 0
  let trimming: Promise<unknown> = Promise.resolve()

  const pin = (build: Manifest | undefined): Disposable => {
    const names = build?.packs ?? []
    for (const name of names) pins.set(name, (pins.get(name) ?? 0) + 1)
    let isHeld = true
    return {
      [Symbol.dispose]() {
        if (!isHeld) return
        isHeld = false
        for (const name of names) {
          const left = (pins.get(name) ?? 1) - 1
          if (left === 0) pins.delete(name)
          else pins.set(name, left)
        }
      },
    }
  }

  const sizes = async (): Promise<{ pack: LocalPack; bytes: number }[]> => {
    const found = []
    for (const pack of packs.all()) {
      const { blocks, size } = await stat(pack.path).catch(() => ({ blocks: 0, size: 0 }))
      found.push({ pack, bytes: pack.have ? blocks * 512 : size })
    }
    return found
  }

  const trim = async ({ highBytes, lowBytes }: CacheBudget): Promise<TrimReport> => {
    const all = await sizes()
    const bytesBefore = sum(all)
    const removed: string[] = []
    let bytesAfter = bytesBefore
    if (bytesBefore <= highBytes) return { bytesBefore, bytesAfter, removed }
    const onlyCopies = await packsOnlyHere(all)
    for (const { pack, bytes } of all.sort((a, b) => a.pack.usedAt - b.pack.usedAt)) {
      if (bytesAfter <= lowBytes) break
      const { name } = pack.index
      // Asked anew for each: a pin or a writer may have come while others were removed.
      if (pins.has(name) || onlyCopies.has(name) || (!pack.have && writers > 0)) continue
      await packs.remove(pack)
      removed.push(name)
      bytesAfter -= bytes
    }
    return { bytesBefore, bytesAfter, removed }
  }

  /** Whole packs that the object store does not have, or that a build needs which it does not have. */
  const packsOnlyHere = async (all: readonly { pack: LocalPack }[]): Promise<Set<string>> => {
    const whole = new Map(all.filter(({ pack }) => !pack.have).map(({ pack }) => [pack.index.name, pack]))
    const only = new Set(whole.keys())
    if (!upstream) return only
    const namedThere = new Set<string>()
    const namedHere = new Set<string>()
    for await (const id of buildIds(objects)) {
      // A manifest that cannot be read may need any of them.
      const manifest = await readManifest(objects, id).catch(() => null)
      if (manifest === null) return only
      const isThere = manifest && (await upstream.size(buildKey(id))) !== undefined
      for (const name of manifest?.packs ?? []) (isThere ? namedThere : namedHere).add(name)
    }
    for (const [name, pack] of whole) {
      if (!namedThere.has(name) || namedHere.has(name)) continue
      const size = await upstream.size(packKey(name)).catch((error: unknown) => {
        if (!(error instanceof Fault)) throw error
      })
      if (size === pack.index.size) only.delete(name)
    }
    return only
  }

  return {
    pin,
    hold(basedOn) {
      const pinned = pin(basedOn)
      writers++
      let isHeld = true
      return {
        [Symbol.dispose]() {
          if (isHeld) writers--
          isHeld = false
          pinned[Symbol.dispose]()
        },
      }
    },
    async usage() {
      const all = await sizes()
      return {
        bytes: sum(all),
        fetchedBytes: sum(all.filter(({ pack }) => pack.have)),
        pinnedBytes: sum(all.filter(({ pack }) => pins.has(pack.index.name))),
      }
    },
    trim(budget) {
      const done = trimming.then(() => trim(budget))
      trimming = done.catch(() => {})
      return done
    },
  }
}

function sum(all: readonly { bytes: number }[]): number {
  return all.reduce((total, { bytes }) => total + bytes, 0)
}
