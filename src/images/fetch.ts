import { readdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { Clock } from '../kit/clock.ts'
import type { Fault } from '../model/fault.ts'
import { formatSize } from '../model/units.ts'
import { pullFault, wrongArchitecture } from './faults.ts'
import { formatReference, isLoopback, type Reference } from './reference.ts'
import { lastLine, runTool } from './run-tool.ts'

export interface Credentials {
  username: string
  password: string
}

export interface FetchOptions {
  clock: Clock
  reference: Reference
  credentials: Credentials | undefined
  /** Credentials of the node's owner, for tasks that bring none. */
  authFile?: string | undefined
  architecture: string
  /** An OCI layout to be: exists, with `blobs` in it; blobs that are there already are not fetched again. */
  layout: string
  progress: (message: string) => void
  signal: AbortSignal
}

/** Brings an image from its registry into a layout, under the tag `image`. Checksums are verified on the way. */
export async function fetchImage(options: FetchOptions): Promise<void> {
  const { reference, layout, architecture, progress, signal } = options
  const name = formatReference(reference)
  progress(`pulling ${name}`)
  const access = await accessArguments(options)
  const done = new AbortController()
  const counting = countBytes(options, AbortSignal.any([signal, done.signal]))
  try {
    const result = await runTool(
      'skopeo',
      ['copy', '--quiet', '--override-os', 'linux', '--override-arch', architecture]
        .concat(access.map((argument) => (argument === tlsOff ? '--src-tls-verify=false' : argument)))
        .concat([`docker://${name}`, `oci:${layout}:image`]),
      { signal },
    )
    if (result.code !== 0) throw await explain(options, access, `${result.stdout}\n${result.stderr}`)
  } finally {
    done.abort()
    await counting
    await rm(join(layout, 'auth.json'), { force: true })
  }
}

const tlsOff = '--tls-verify=false'

/** Secrets go into a file that only we can read, never onto a command line. */
async function accessArguments(options: FetchOptions): Promise<string[]> {
  const { reference, credentials, layout } = options
  const args = isLoopback(reference) ? [tlsOff] : []
  if (!credentials && options.authFile !== undefined) return [...args, '--authfile', options.authFile]
  const file = join(layout, 'auth.json')
  const key = reference.registry === 'docker.io' ? 'https://index.docker.io/v1/' : reference.registry
  const auth = credentials && Buffer.from(`${credentials.username}:${credentials.password}`).toString('base64')
  await writeFile(file, JSON.stringify({ auths: auth ? { [key]: { auth } } : {} }), { mode: 0o600 })
  return [...args, '--authfile', file]
}

/** The tool shows progress to terminals only, so look at what it has written. */
async function countBytes({ clock, layout, reference, progress }: FetchOptions, signal: AbortSignal): Promise<void> {
  const before = await bytesIn(layout)
  for (let last = before; ; ) {
    await clock.sleep(1000, { signal }).catch(() => {})
    if (signal.aborted) return
    const bytes = await bytesIn(layout)
    if (bytes > last) progress(`pulling ${formatReference(reference)}: ${formatSize(bytes - before)} so far`)
    last = Math.max(last, bytes)
  }
}

async function bytesIn(layout: string): Promise<number> {
  let total = 0
  for (const directory of [layout, join(layout, 'blobs', 'sha256')]) {
    for (const entry of await readdir(directory, { withFileTypes: true }).catch(() => [])) {
      if (entry.isFile()) total += (await stat(join(directory, entry.name)).catch(() => ({ size: 0 }))).size
    }
  }
  return total
}

async function explain(options: FetchOptions, access: string[], output: string): Promise<Fault> {
  const { reference, credentials, architecture } = options
  const image = formatReference(reference)
  if (/no image found in (manifest list|image index) for architecture/i.test(output))
    return wrongArchitecture(image, await offeredArchitectures(options, access), architecture)
  const { registry } = reference
  return pullFault({ image, registry, username: credentials?.username, output, gist: gistOf(output) })
}

const Platforms = z.object({
  manifests: z
    .array(z.object({ platform: z.object({ architecture: z.string().max(50), os: z.string().max(50) }) }))
    .max(1000),
})

async function offeredArchitectures({ reference, signal }: FetchOptions, access: string[]): Promise<string[]> {
  const args = ['inspect', '--raw', ...access, `docker://${formatReference(reference)}`]
  const { stdout } = await runTool('skopeo', args, { signal })
  try {
    const { manifests } = Platforms.parse(JSON.parse(stdout))
    const known = manifests.filter(({ platform }) => platform.os === 'linux')
    return [...new Set(known.map(({ platform }) => platform.architecture))]
  } catch {
    return []
  }
}

/** The end of the tool's own message, which it wraps in a log line. */
function gistOf(output: string): string {
  const line = lastLine({ stdout: '', stderr: output })
  const message = /msg="((?:[^"\\]|\\.)*)"/.exec(line)?.[1] ?? line
  return message.replaceAll('\\"', '"').split(': ').slice(-3).join(': ')
}
