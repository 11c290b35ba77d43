import { spawn } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ImageReader } from '../../blocks/content.ts'
import { serveImage } from '../../blocks/operations/serve-image.ts'
import { lastLine, runTool } from '../../images/run-tool.ts'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'

/**
 * The file system of a disk, mounted to be read, without a kernel's help for NBD: we serve the disk, nbdfuse shows it as a
 * file, and the kernel mounts that (root), or fuse2fs does (everybody else). Disposing takes all of it away again.
 *
 *     chunks → NBD on a socket, in this process → nbdfuse: a file → loop mount, or fuse2fs
 *
 * The journal is not replayed: a disk is mounted as it was when it was cut. `isGone` says whether somebody unmounted it.
 */
export interface MountedDisk extends AsyncDisposable {
  readonly directory: string
  readonly scratch: string
  isGone(): Promise<boolean>
}

const pollMs = 20
const patienceMs = 15_000

export async function mountDisk(
  reader: ImageReader,
  {
    directory,
    clock,
    signal,
    onProblem,
  }: {
    /** Exists and is empty, or is made. */
    directory: string
    clock: Clock
    signal: AbortSignal
    onProblem: (error: unknown) => void
  },
): Promise<MountedDisk> {
  const isRoot = process.getuid?.() === 0
  await checkTools(isRoot ? ['nbdfuse', 'mount', 'umount'] : ['nbdfuse', 'fuse2fs', 'fusermount3'])
  await checkFormat(reader)
  await mkdir(directory, { recursive: true })
  if (await isMountPoint(directory))
    throw new Fault(
      'conflict',
      `something is mounted at ${directory} already; "tutti build unmount" takes a build away`,
    )

  await using opened = new AsyncDisposableStack()
  const scratch = await mkdtemp(join(tmpdir(), 'tutti-mount-'))
  opened.defer(() => rm(scratch, { recursive: true, force: true }))
  const socket = join(scratch, 's')
  opened.use(await serveImage(reader, { socket, onProblem }))
  const disk = await showAsFile(opened, { scratch, socket, size: reader.image.size, clock, signal })
  opened.defer(() => unmountFile(directory, clock))
  const args = isRoot
    ? { program: 'mount', args: ['-t', 'ext4', '-o', 'ro,noload,loop,nodev,nosuid', disk, directory] }
    : { program: 'fuse2fs', args: ['-o', 'ro,fakeroot', disk, directory] }
  const mounted = await runTool(args.program, args.args, { signal })
  if (mounted.code !== 0)
    throw new Fault('unavailable', `the disk cannot be mounted at ${directory}: ${lastLine(mounted)}`)
  const owned = opened.move()
  return {
    directory,
    scratch,
    isGone: async () => !(await isMountPoint(directory)),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

/** The serving process is gone: takes away what it left. */
export async function cleanUpMount(directory: string, scratch: string | undefined, clock: Clock): Promise<void> {
  await unmountFile(directory, clock)
  if (scratch === undefined) return
  await unmountFile(join(scratch, 'd'), clock)
  await rm(scratch, { recursive: true, force: true })
}

/** Whether something is mounted there; asked of the kernel and not of the file system, which may be gone. */
export async function isMountPoint(directory: string): Promise<boolean> {
  const table = await readFile('/proc/self/mountinfo', 'utf8').catch(() => '')
  return table.split('\n').some((line) => unescapeOctal(line.split(' ')[4] ?? '') === directory)
}

async function showAsFile(
  opened: AsyncDisposableStack,
  {
    scratch,
    socket,
    size,
    clock,
    signal,
  }: { scratch: string; socket: string; size: number; clock: Clock; signal: AbortSignal },
): Promise<string> {
  const at = join(scratch, 'd')
  await mkdir(at)
  const file = join(at, 'disk')
  const args = ['--readonly', file, `nbd+unix:///?socket=${socket}`]
  const child = spawn('nbdfuse', args, { stdio: ['ignore', 'ignore', 'pipe'], detached: true })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-4096)
  })
  let hasEnded = false
  const ended = new Promise<void>((resolve) => {
    const end = () => {
      hasEnded = true
      resolve()
    }
    child.once('exit', end).once('error', end)
  })
  opened.defer(async () => {
    await unmountFile(at, clock)
    if (!hasEnded) child.kill('SIGTERM')
    await ended
  })
  for (let waitedMs = 0; ; waitedMs += pollMs) {
    if (hasEnded || waitedMs > patienceMs)
      throw new Fault('unavailable', `the disk cannot be shown as a file: ${lastLine({ stdout: '', stderr: said })}`)
    if ((await isMountPoint(at)) && (await stat(file).catch(() => undefined))?.size === size) return file
    await clock.sleep(pollMs, { signal })
  }
}

/** Gently, for a moment; then it is taken out of the tree and goes when its last user does. */
async function unmountFile(directory: string, clock: Clock): Promise<void> {
  const isRoot = process.getuid?.() === 0
  for (let attempt = 0; await isMountPoint(directory); attempt++) {
    const lazily = attempt >= 10
    if (attempt > 12) throw new Fault('conflict', `${directory} cannot be unmounted`)
    const args = isRoot ? [lazily ? ['-l'] : [], directory].flat() : ['-u', ...(lazily ? ['-z'] : []), directory]
    const { code } = await runTool(isRoot ? 'umount' : 'fusermount3', args)
    if (code !== 0) await clock.sleep(100)
  }
}

/** Only ext4 is mounted: the kernel must not be fed whatever a guest has written into its first sectors. */
async function checkFormat(reader: ImageReader): Promise<void> {
  const superblock = reader.image.size < 2048 ? Buffer.alloc(1024) : (await reader.read(0)).subarray(1024, 2048)
  if (superblock.length >= 58 && superblock.readUInt16LE(56) === 0xef53) return
  throw new Fault('invalid', 'there is no ext4 file system on the disk; "tutti build export --raw" writes it as it is')
}

/** Whether the disk was cut while its file system had something in its journal that is not in its place yet. */
export async function hasUnplayedJournal(reader: ImageReader): Promise<boolean> {
  const superblock = (await reader.read(0)).subarray(1024, 2048)
  return superblock.length >= 100 && (superblock.readUInt32LE(96) & 4) !== 0
}

async function checkTools(names: readonly string[]): Promise<void> {
  const missing: string[] = []
  for (const name of names) {
    const { code } = await runTool('sh', ['-c', 'PATH="$PATH:/usr/sbin:/sbin" command -v "$1"', 'sh', name])
    if (code !== 0) missing.push(name)
  }
  const access = await stat('/dev/fuse').catch(() => undefined)
  const packages = missing.map((name) =>
    name === 'mount' || name === 'umount' ? 'mount' : name === 'fusermount3' ? 'fuse3' : name,
  )
  if (missing.length > 0)
    throw new Fault(
      'unavailable',
      `to mount a disk ${missing.join(' and ')} ${missing.length === 1 ? 'is' : 'are'} needed; install it with "apt-get install ${packages.join(' ')}"`,
    )
  if (!access) throw new Fault('unavailable', 'to mount a disk /dev/fuse is needed; load it with "modprobe fuse"')
}

/** As the kernel writes blanks in its tables. */
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)))
}
