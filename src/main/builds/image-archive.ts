import { spawn } from 'node:child_process'
import { createHash, type Hash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdtemp, rename, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGzip } from 'node:zlib'
import { pack } from 'tar-stream'
import type { Manifest } from '../../blocks/manifest.ts'
import { lastLine } from '../../images/run-tool.ts'
import { Fault } from '../../model/fault.ts'

/**
 * An image archive of one layer, of a directory that is a root file system: an OCI layout (`oci-archive:`) that says in
 * `manifest.json` too what it is, so that `docker load` and `docker-archive:` take the same file. Owners, modes, links and
 * extended attributes are as in the directory. The file appears when it is complete.
 *
 * https://github.com/opencontainers/image-spec/blob/main/image-layout.md
 */
export async function writeImageArchive({
  root,
  file,
  manifest,
  tag,
  signal,
  onProgress,
}: {
  root: string
  file: string
  manifest: Manifest
  /** With its tag, such as `web:1`. */
  tag: string
  signal: AbortSignal
  /** Bytes of files so far. */
  onProgress: (bytes: number) => void
}): Promise<{ size: number; digest: string; layerBytes: number }> {
  const scratch = await mkdtemp(join(dirname(file), '.tutti-export-'))
  try {
    const layerFile = join(scratch, 'layer')
    const layer = await writeLayer({ root, file: layerFile, signal, onProgress })
    const config = describeConfig(manifest, layer.diffId)
    const image = {
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...blobOf(config) },
      layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest: layer.digest, size: layer.size }],
    }
    const imageText = JSON.stringify(image)
    const index = {
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.index.v1+json',
      manifests: [
        {
          mediaType: image.mediaType,
          ...blobOf(imageText),
          platform: { architecture: manifest.machine.arch, os: 'linux' },
          annotations: {
            'org.opencontainers.image.ref.name': tag.slice(tag.lastIndexOf(':') + 1),
            'io.containerd.image.name': tag,
          },
        },
      ],
    }
    const docker = [{ Config: blobPath(image.config.digest), RepoTags: [tag], Layers: [blobPath(layer.digest)] }]
    const unfinished = join(scratch, 'archive')
    await writeTar(unfinished, signal, [
      { name: 'oci-layout', body: JSON.stringify({ imageLayoutVersion: '1.0.0' }) },
      { name: 'index.json', body: JSON.stringify(index) },
      { name: 'manifest.json', body: JSON.stringify(docker) },
      { name: blobPath(blobOf(imageText).digest), body: imageText },
      { name: blobPath(image.config.digest), body: config },
      { name: blobPath(layer.digest), path: layerFile, size: layer.size },
    ])
    await rename(unfinished, file)
    return { size: (await stat(file)).size, digest: blobOf(imageText).digest, layerBytes: layer.bytes }
  } finally {
    await rm(scratch, { recursive: true, force: true })
  }
}

interface Layer {
  /** Of the compressed layer. */
  digest: string
  size: number
  /** Of the layer as it is unpacked. */
  diffId: string
  bytes: number
}

async function writeLayer({
  root,
  file,
  signal,
  onProgress,
}: {
  root: string
  file: string
  signal: AbortSignal
  onProgress: (bytes: number) => void
}): Promise<Layer> {
  const form = ['--format=posix', '--pax-option=delete=atime,delete=ctime', '--numeric-owner', '--sort=name']
  const what = ['--xattrs', '--xattrs-include=*', '--one-file-system', '--exclude=./lost+found', '-C', root, '.']
  const child = spawn('tar', ['-c', ...form, ...what], { stdio: ['ignore', 'pipe', 'pipe'], signal })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-4096)
  })
  const ended = new Promise<number>((resolve, reject) => {
    child.once('error', reject).once('close', (code) => resolve(code ?? 255))
  })
  const plain = counted(onProgress)
  const zipped = counted(() => {})
  const gzip = createGzip({ level: 5 })
  const [code] = await Promise.all([
    ended,
    pipeline(child.stdout, plain.through, gzip, zipped.through, createWriteStream(file, { mode: 0o600 }), { signal }),
  ])
  if (code !== 0)
    throw new Fault('unavailable', `the files of the disk cannot be read: ${lastLine({ stdout: '', stderr: said })}`)
  return { digest: zipped.digest(), size: zipped.bytes(), diffId: plain.digest(), bytes: plain.bytes() }
}

/** A stream that hashes and counts what goes through. */
function counted(onBytes: (bytes: number) => void) {
  const hash: Hash = createHash('sha256')
  let bytes = 0
  const through = new Transform({
    transform(piece: Buffer, _encoding, done) {
      hash.update(piece)
      bytes += piece.length
      onBytes(bytes)
      done(null, piece)
    },
  })
  return { through, digest: () => `sha256:${hash.digest('hex')}`, bytes: () => bytes }
}

/** How containers of it run, as sandboxes of the build do. */
function describeConfig({ createdAt, machine, defaults, id }: Manifest, diffId: string): string {
  const created = new Date(createdAt).toISOString()
  return JSON.stringify({
    created,
    architecture: machine.arch,
    os: 'linux',
    config: {
      Env: Object.entries(defaults.env).map(([name, value]) => `${name}=${value}`),
      User: defaults.user,
      WorkingDir: defaults.cwd,
      Labels: { 'dev.tutti.build': id },
    },
    rootfs: { type: 'layers', diff_ids: [diffId] },
    history: [{ created, created_by: `tutti build export ${id}` }],
  })
}

function blobOf(text: string): { digest: string; size: number } {
  return { digest: `sha256:${createHash('sha256').update(text).digest('hex')}`, size: Buffer.byteLength(text) }
}

function blobPath(digest: string): string {
  return `blobs/${digest.replace(':', '/')}`
}

type Entry = { name: string } & ({ body: string } | { path: string; size: number })

async function writeTar(file: string, signal: AbortSignal, entries: readonly Entry[]): Promise<void> {
  const tar = pack()
  const written = pipeline(tar, createWriteStream(file, { mode: 0o600 }), { signal })
  const fill = async () => {
    for (const entry of entries) {
      const head = { name: entry.name, mode: 0o644, mtime: new Date(0) }
      if ('body' in entry) tar.entry(head, entry.body)
      else await pipeline(createReadStream(entry.path), tar.entry({ ...head, size: entry.size }), { signal })
    }
    tar.finalize()
  }
  await Promise.all([fill(), written])
}
