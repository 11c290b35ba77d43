import { Fault } from '../model/fault.ts'
import { wrongArchitecture } from './faults.ts'
import { lastLine, runTool } from './run-tool.ts'

export interface ArchiveOptions {
  /** `oci-archive:FILE`, `docker-archive:FILE`, or `oci:DIRECTORY`, each with `:TAG` when it holds several. */
  source: string
  architecture: string
  /** An OCI layout to be: exists, with `blobs` in it. */
  layout: string
  progress: (message: string) => void
  signal: AbortSignal
}

const forms = /^(oci-archive|docker-archive|oci):\//

/** Whether a name of an image means a file of this node. */
export function isArchive(source: string): boolean {
  return /^(oci-archive|docker-archive|oci):/.test(source)
}

/** Brings an image from a file into a layout, under the tag `image`. */
export async function readArchive({ source, architecture, layout, progress, signal }: ArchiveOptions): Promise<void> {
  if (!forms.test(source))
    throw new Fault('invalid', `"${source}" lacks an absolute path: write oci-archive:/path/to/image.tar`)
  progress(`reading ${source}`)
  const chosen = ['--override-os', 'linux', '--override-arch', architecture]
  const result = await runTool('skopeo', ['copy', '--quiet', ...chosen, source, `oci:${layout}:image`], { signal })
  if (result.code === 0) return
  const said = `${result.stdout}\n${result.stderr}`
  if (/no image found in (manifest list|image index) for architecture/i.test(said))
    throw wrongArchitecture(source, [], architecture)
  if (/no such file|does not exist/i.test(said))
    throw new Fault('not_found', `image "${source}" does not exist on this node`)
  if (/no space left/i.test(said))
    throw new Fault('exhausted', `the disk is full: cannot read image "${source}"; free space or evict images`)
  throw new Fault('invalid', `image "${source}" cannot be read: ${lastLine(result)}`)
}
