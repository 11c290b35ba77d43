import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { buffer } from 'node:stream/consumers'
import { gzipSync } from 'node:zlib'
import { pack } from 'tar-stream'

/** A container image in memory, in the form that registries serve it (OCI image specification 1.1). */
export interface DemoImage {
  manifest: Buffer
  manifestType: string
  blobs: ReadonlyMap<string, Buffer>
}

const busyboxPaths = ['/bin/busybox', '/usr/bin/busybox']
const applets = [
  'sh',
  'echo',
  'sleep',
  'cat',
  'ls',
  'ps',
  'env',
  'hostname',
  'id',
  'httpd',
  'wget',
  'uname',
  'date',
  'true',
  'false',
]

/** An image around this machine's static busybox; undefined where there is none. */
export async function busyboxImage(architecture: string): Promise<DemoImage | undefined> {
  const busybox = await firstStatic(busyboxPaths)
  if (!busybox) return undefined
  const layer = pack()
  for (const directory of ['bin', 'dev', 'etc', 'proc', 'sys', 'tmp'])
    layer.entry({ name: `${directory}/`, type: 'directory', mode: 0o755 })
  layer.entry({ name: 'bin/busybox', mode: 0o755 }, busybox)
  for (const applet of applets) layer.entry({ name: `bin/${applet}`, type: 'symlink', linkname: 'busybox' })
  layer.entry({ name: 'etc/passwd', mode: 0o644 }, 'root:x:0:0:root:/:/bin/sh\n')
  layer.finalize()
  const tar = await buffer(layer)
  const zipped = gzipSync(tar, { level: 6 })
  const config = json({
    architecture,
    os: 'linux',
    config: { Cmd: ['/bin/sh'], Env: ['PATH=/bin'] },
    rootfs: { type: 'layers', diff_ids: [digestOf(tar)] },
  })
  const manifestType = 'application/vnd.oci.image.manifest.v1+json'
  const manifest = json({
    schemaVersion: 2,
    mediaType: manifestType,
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: digestOf(config), size: config.length },
    layers: [
      { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest: digestOf(zipped), size: zipped.length },
    ],
  })
  const blobs = new Map([config, zipped].map((blob) => [digestOf(blob), blob]))
  return { manifest, manifestType, blobs }
}

export function digestOf(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}

/** A dynamically linked busybox would not run in an image of its own: it names an interpreter, and a static one does not. */
async function firstStatic(paths: readonly string[]): Promise<Buffer | undefined> {
  for (const path of paths) {
    const bytes = await readFile(path).catch(() => undefined)
    if (bytes && !bytes.includes('/ld-linux') && !bytes.includes('/ld-musl')) return bytes
  }
  return undefined
}

function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value))
}
