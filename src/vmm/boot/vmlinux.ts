import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { gunzipSync, zstdDecompressSync } from 'node:zlib'
import { Fault } from '../../model/fault.ts'
import { lz4Legacy } from './lz4.ts'

/**
 * The kernel proper out of what a boot loader would start: Firecracker takes nothing else, and QEMU need not watch the
 * emulated machine unpack it. Kept in `directory`. Gives the path.
 */
export async function unpackKernel(kernel: string, directory: string): Promise<string> {
  const { mtimeMs, size } = await stat(kernel)
  const key = createHash('sha256')
    .update(JSON.stringify([kernel, mtimeMs, size]))
    .digest('hex')
    .slice(0, 24)
  const path = join(directory, `vmlinux-${key}`)
  if (await stat(path).catch(() => undefined)) return path
  const whole = await readFile(kernel)
  const image = await vmlinux(whole)
  if (image === whole) return kernel
  if (image === undefined) throw new Fault('invalid', `${kernel} is not a Linux kernel that can be unpacked`)
  await mkdir(directory, { recursive: true })
  const unfinished = `${path}.${process.pid}.tmp`
  await writeFile(unfinished, image)
  await rename(unfinished, path)
  return path
}

/** Undefined when it is no kernel in a form known here. */
export async function vmlinux(image: Buffer): Promise<Buffer | undefined> {
  if (isElf(image) || isArm64Image(image)) return image
  // arm64 kernels are merely compressed; amd64 ones bring their own unpacking, with the place of what it unpacks.
  const packed = isBzImage(image) ? payloadOf(image) : image
  const unpacked = await unpack(packed)
  return unpacked && (isElf(unpacked) || isArm64Image(unpacked)) ? unpacked : undefined
}

function isElf(image: Buffer): boolean {
  return image.subarray(0, 4).equals(Buffer.from('\x7fELF', 'latin1'))
}

/** https://docs.kernel.org/arch/arm64/booting.html */
function isArm64Image(image: Buffer): boolean {
  return image.subarray(56, 60).toString('latin1') === 'ARM\x64'
}

function isBzImage(image: Buffer): boolean {
  return image.length > 0x260 && image.toString('latin1', 0x202, 0x206) === 'HdrS'
}

/** https://docs.kernel.org/arch/x86/boot.html: fields payload_offset and payload_length. */
function payloadOf(image: Buffer): Buffer {
  const setupSectors = image[0x1f1] || 4
  const start = (setupSectors + 1) * 512 + image.readUInt32LE(0x248)
  return image.subarray(start, start + image.readUInt32LE(0x24c))
}

/** Whatever was packed by anything but gzip has its unpacked size appended, in 4 bytes. */
async function unpack(packed: Buffer): Promise<Buffer | undefined> {
  const magic = packed.subarray(0, 6).toString('hex')
  const bare = packed.subarray(0, -4)
  if (magic.startsWith('1f8b')) return gunzipSync(packed)
  if (magic.startsWith('28b52ffd')) return zstdDecompressSync(bare)
  if (magic.startsWith('02214c18')) return lz4Legacy(bare)
  return magic === 'fd377a585a00' ? unxz(bare) : undefined
}

function unxz(packed: Buffer): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const xz = execFile('xz', ['-dc'], { encoding: 'buffer', maxBuffer: 1 << 28 }, (error, stdout) => {
      if (error === null) resolve(stdout)
      else reject(new Fault('unavailable', 'the kernel cannot be unpacked; install xz-utils', { cause: error }))
    })
    xz.stdin?.on('error', () => {}).end(packed)
  })
}
