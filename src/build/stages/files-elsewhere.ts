import { createHash } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join, posix } from 'node:path'
import { Fault } from '../../model/fault.ts'
import type { BuildScope } from '../build-template.ts'
import type { ReceivedEntry } from '../context/receive-context.ts'
import { fetchUrl, withoutSecrets } from '../copy/fetch-url.ts'
import { reachability } from '../copy/reachable.ts'
import type { Elsewhere } from '../steps/plan-steps.ts'

/** Files that a recipe names and that whoever asks does not send. */
export function filesElsewhere(scope: BuildScope, origin: Elsewhere['origin']): Elsewhere {
  const fetched = new Map<string, Promise<ReceivedEntry>>()
  return {
    origin,
    async fetch(url, checksum) {
      // What it will be is known, so an earlier build that had it saves fetching it.
      if (checksum !== undefined) return { ...remoteEntry(url), hash: checksum.replace('sha256:', ''), url }
      const entry = fetched.get(url) ?? fetchRemote(scope, remoteEntry(url), url)
      fetched.set(url, entry)
      return entry
    },
    async write(name, text) {
      const hash = createHash('sha256').update(text).digest('hex')
      const file = join(scope.directory, `inline-${hash}`)
      await writeFile(file, text, { mode: 0o600 })
      const changedAt = Math.floor(scope.parts.clock.now() / 1000)
      return { path: name, type: 'file', mode: 0o644, size: Buffer.byteLength(text), changedAt, hash, file }
    },
  }
}

/** The same entry with its bytes, for one that is only known by its checksum. */
export async function fetchPromised(scope: BuildScope, entry: ReceivedEntry): Promise<ReceivedEntry> {
  const { url, hash } = entry
  if (url === undefined || entry.file !== undefined) return entry
  const found = await fetchRemote(scope, entry, url)
  if (found.hash === hash) return found
  throw new Fault(
    'invalid',
    `${withoutSecrets(url)} has the checksum sha256:${found.hash}, not the one that is asked for`,
  )
}

/** As Docker has it: for its owner alone, and named after the end of the URL. */
function remoteEntry(url: string): ReceivedEntry {
  if (!URL.canParse(url)) throw new Fault('invalid', `"${url}" is not a URL`)
  const path = decodeName(posix.basename(new URL(url).pathname))
  return { path, type: 'file', mode: 0o600, size: 0, changedAt: 0 }
}

function decodeName(name: string): string {
  try {
    return decodeURIComponent(name).replaceAll('/', '_')
  } catch {
    return name
  }
}

async function fetchRemote(scope: BuildScope, entry: ReceivedEntry, url: string): Promise<ReceivedEntry> {
  const { directory, parts, recipe, report, signal } = scope
  const file = join(directory, `fetched-${createHash('sha256').update(url).digest('hex')}`)
  report('fetch', `fetching ${withoutSecrets(url)}`)
  const maxBytes = recipe.diskMiB * 2 ** 20
  const judge = parts.reachability ?? ((address: string) => reachability(address, parts.fetchFrom))
  const found = await fetchUrl({ url, file, maxBytes, reachability: judge, signal })
  return { ...entry, ...found, url, file }
}
