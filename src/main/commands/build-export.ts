import { existsSync } from 'node:fs'
import { mkdtemp, rmdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { exportDisk } from '../../blocks/operations/export-disk.ts'
import { openOf } from '../../blocks/operations/images.ts'
import type { Cli, Given } from '../../cli/cli.ts'
import { textOption } from '../../cli/options.ts'
import { print } from '../../cli/output/print.ts'
import { facts } from '../../cli/output/table.ts'
import { paint } from '../../cli/output/text.ts'
import { Fault, sentence } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import { formatSize } from '../../model/quantity.ts'
import { findBuild } from '../builds/find-build.ts'
import { writeImageArchive } from '../builds/image-archive.ts'
import { hasUnplayedJournal, mountDisk } from '../builds/mount-disk.ts'
import { slowProgress } from '../builds/progress.ts'
import { type BuildStore, openBuildStore } from '../builds/store.ts'

/** `tutti build export`: the disk as a raw file, or its root file system as a container image, or both. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const [raw, oci] = [outputFile(textOption(options, 'raw')), outputFile(textOption(options, 'oci'))]
  if (raw === undefined && oci === undefined)
    throw new Fault('invalid', 'say what to write: --raw FILE, or --oci FILE for a container image')
  const store = await openBuildStore(cli, textOption(options, 'store'))
  const id = await findBuild(cli, store, args[0] ?? '', { context: textOption(options, 'context') })
  const tag = readTag(textOption(options, 'tag') ?? `build:${id}`)
  const disk = raw === undefined ? undefined : { file: raw, ...(await writeRaw(cli, store, id, raw)) }
  const image =
    oci === undefined ? undefined : { file: oci, tag, ...(await writeImage(cli, store, id, { file: oci, tag })) }
  await print(cli, options.output, {
    value: { build: id, ...(disk ? { raw: disk } : {}), ...(image ? { oci: image } : {}) },
    names: () => [disk?.file, image?.file].filter((file) => file !== undefined),
    table: () =>
      facts(cli.stdout, [
        ['build', id],
        ...(disk
          ? [['raw', `${disk.file}: ${formatSize(disk.size)}, ${formatSize(disk.writtenBytes)} of it data`] as const]
          : []),
        ...(image
          ? ([
              ['image', `${image.file}: ${formatSize(image.size)}, ${formatSize(image.layerBytes)} unpacked`],
              ['digest', image.digest],
              ['load it', `docker load -i ${image.file}; skopeo copy oci-archive:${image.file} …`],
            ] as const)
          : []),
      ]),
  })
}

function outputFile(text: string | undefined): string | undefined {
  if (text === undefined) return undefined
  const file = resolve(text)
  if (!existsSync(dirname(file))) throw new Fault('invalid', `there is no directory ${dirname(file)}`)
  return file
}

function readTag(text: string): string {
  const whole = /:[^/]+$/.test(text) ? text : `${text}:latest`
  if (/^[a-z0-9]+([._/:-]+[a-z0-9]+)*:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/.test(whole)) return whole
  throw new Fault('invalid', `"${text}" cannot be the name of an image: write it like web:1 or registry.example/web:1`)
}

async function writeRaw(cli: Cli, { source }: BuildStore, id: BuildId, file: string) {
  using shown = slowProgress(cli)
  const onProgress = (bytes: number) => shown.show(() => `wrote ${formatSize(bytes)}`)
  return exportDisk(source, id, file, { signal: cli.signal, onProgress })
}

async function writeImage(cli: Cli, { source }: BuildStore, id: BuildId, { file, tag }: { file: string; tag: string }) {
  const { clock, signal } = cli
  const manifest = await source.manifest(id)
  const reader = await openOf(source, manifest, manifest.disk)
  const say = (text: string) => cli.stderr.write(`${paint(cli.stderr, 'busy', 'tutti:')} ${text}\n`)
  if (await hasUnplayedJournal(reader))
    say(
      'the disk was saved while its file system was in use: its journal is not replayed, so the last changes may be missing',
    )
  let problem: unknown
  const root = await mkdtemp(join(tmpdir(), 'tutti-export-'))
  try {
    await using mounted = await mountDisk(reader, {
      ...{ directory: root, clock, signal },
      onProblem: (error) => {
        problem ??= error
      },
    })
    using shown = slowProgress(cli)
    const onProgress = (bytes: number) => shown.show(() => `packed ${formatSize(bytes)}`)
    return await writeImageArchive({ root: mounted.directory, file, manifest, tag, signal, onProgress })
  } catch (error) {
    // What tar could not read is said better by whoever could not give it.
    if (problem === undefined) throw error
    throw new Fault('conflict', sentence(problem), { cause: error })
  } finally {
    await rmdir(root).catch(() => {})
  }
}
