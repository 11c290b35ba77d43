import { z } from 'zod'
import { Fault } from '../../model/fault.ts'
import type { ObjectStore } from '../objects.ts'

/**
 * What a collection found unreachable, and when. Nothing is removed that was not on this list for longer than any build
 * takes; and who makes a build does not rely on what is on the list when it begins. So whoever began before a thing was
 * listed has long named it in a manifest when its time comes, and whoever began later has stored it again.
 */
export type Condemned = Map<string, number>

const List = z.strictObject({ since: z.record(z.string().max(500), z.int()) })

const key = 'gc/condemned.json'

export async function readCondemned(objects: ObjectStore): Promise<Condemned> {
  const bytes = await objects.get(key).catch((error: unknown) => {
    if (error instanceof Fault && error.code === 'not_found') return undefined
    throw error
  })
  if (!bytes) return new Map()
  try {
    return new Map(Object.entries(List.parse(JSON.parse(bytes.toString())).since))
  } catch {
    // Without the list everything gets its full time again.
    return new Map()
  }
}

export async function writeCondemned(objects: ObjectStore, condemned: Condemned): Promise<void> {
  const body = Buffer.from(JSON.stringify({ since: Object.fromEntries(condemned) }))
  await objects.put(key, body, { size: body.length })
}

/** Names of the packs on the list. */
export function condemnedPacks(condemned: Condemned): Set<string> {
  const packs = [...condemned.keys()].filter((name) => name.startsWith('packs/'))
  return new Set(packs.map((name) => name.slice('packs/'.length)))
}
