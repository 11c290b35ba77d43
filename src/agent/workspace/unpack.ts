import { createReadStream, createWriteStream } from 'node:fs'
import { chmod, link, lstat, mkdir, open, realpath, rm, symlink } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { type Readable, Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { extract } from 'tar-stream'
import yauzl from 'yauzl'
import { Fault } from '../../model/fault.ts'
import type { Artifact } from '../../model/job.ts'
import { formatSize } from '../../model/units.ts'

/** Without a disk ask of the task, an archive may become this large. */
export const defaultUnpackedBytes = 64 * 2 ** 30
const maxEntries = 1_000_000

/**
 * Unpacks an archive from a stranger: nothing of it lands outside the directory, no link leads out, nothing is a
 * device, and it does not grow beyond its limit. `gz` and `zst` become the one file `to`.
 */
export async function unpack(
  form: Exclude<Artifact['unpack'], 'auto' | 'none'>,
  file: string,
  to: string,
  { maxBytes, signal }: { maxBytes: number; signal: AbortSignal },
): Promise<void> {
  const source = createReadStream(file)
  const limit = new SizeLimit(maxBytes)
  try {
    if (form === 'gz')
      return await pipeline(source, createGunzip(), limit, createWriteStream(to, { flags: 'wx' }), { signal })
    if (form === 'zst')
      return await pipeline(source, createZstdDecompress(), limit, createWriteStream(to, { flags: 'wx' }), { signal })
    const place = new Placer(to)
    if (form === 'zip') {
      source.destroy()
      await unzip(file, place, maxBytes, signal)
    } else {
      const tar = extract()
      const decompress = form === 'tar.gz' ? [createGunzip()] : form === 'tar.zst' ? [createZstdDecompress()] : []
      const reading = pipeline([source, ...decompress, limit, tar], { signal })
      reading.catch(() => {})
      for await (const entry of tar) {
        const { name, type, mode, linkname } = entry.header
        if (type === 'file' || type === 'contiguous-file') await place.file(name, mode, entry as AsyncIterable<Buffer>)
        else {
          if (type === 'directory') await place.directory(name)
          else if (type === 'symlink') await place.symbolicLink(name, linkname ?? '')
          else if (type === 'link') await place.hardLink(name, linkname ?? '')
          else if (type !== null && !type.startsWith('pax-')) throw refused(name, `it is a ${type}`)
          entry.resume()
        }
      }
      await reading
    }
    await place.checkLinks()
  } catch (error) {
    if (signal.aborted) throw signal.reason
    if (error instanceof Fault || (error as NodeJS.ErrnoException).code === 'ENOSPC') throw error
    throw new Fault('invalid', `it cannot be unpacked as ${form}: ${(error as Error).message}`, { cause: error })
  } finally {
    source.destroy()
  }
}

async function unzip(file: string, place: Placer, maxBytes: number, signal: AbortSignal): Promise<void> {
  const zip = await yauzl.openPromise(file, { autoClose: false, lazyEntries: true, strictFileNames: true })
  let sum = 0
  try {
    for await (const entry of zip.eachEntry()) {
      signal.throwIfAborted()
      const mode = entry.externalFileAttributes >>> 16
      const kind = mode & 0o170000
      sum += entry.uncompressedSize
      if (sum > maxBytes) throw tooLarge(maxBytes)
      if (entry.fileName.endsWith('/')) await place.directory(entry.fileName)
      else {
        const content = await zip.openReadStreamPromise(entry)
        // yauzl ends an entry that is larger than it says with an error.
        if (kind === 0o120000) await place.symbolicLink(entry.fileName, await textOf(content))
        else if (kind === 0 || kind === 0o100000) await place.file(entry.fileName, mode & 0o777 || 0o644, content)
        else throw refused(entry.fileName, 'it is neither a file nor a directory nor a link')
      }
    }
  } finally {
    zip.close()
  }
}

/** Puts entries under one directory, passing through real directories only. */
class Placer {
  readonly #top: string
  readonly #links: string[] = []
  readonly #known = new Set<string>()
  #entries = 0

  constructor(top: string) {
    this.#top = top
  }

  async file(name: string, mode: number | undefined, content: AsyncIterable<Buffer>): Promise<void> {
    const path = await this.#clear(name)
    const file = await open(path, 'wx', 0o600)
    // Closes the file too.
    await pipeline(content, file.createWriteStream())
    await chmod(path, ((mode ?? 0o644) & 0o777) | 0o400)
  }

  async directory(name: string): Promise<void> {
    await this.#parents(this.#inside(name), name)
  }

  async symbolicLink(name: string, target: string): Promise<void> {
    const path = await this.#clear(name)
    if (target.startsWith('/')) throw refused(name, `it links to the absolute path ${target}`)
    this.#within(resolve(dirname(path), target), name, `it links to ${target}, outside`)
    await symlink(target, path)
    this.#links.push(path)
  }

  async hardLink(name: string, target: string): Promise<void> {
    const path = await this.#clear(name)
    const source = this.#inside(target)
    await this.#parents(dirname(source), target)
    const found = await lstat(source).catch(() => undefined)
    if (!found?.isFile()) throw refused(name, `it links to ${target}, which is not a file of the archive`)
    await link(source, path)
  }

  /** Several links, each harmless, may together lead out; so they are followed once all are there. */
  async checkLinks(): Promise<void> {
    const top = await realpath(this.#top)
    for (const path of this.#links) {
      const real = await realpath(path).catch(() => undefined)
      if (real !== undefined && real !== top && !real.startsWith(`${top}/`)) {
        throw refused(path.slice(this.#top.length + 1), 'it leads outside by way of other links')
      }
    }
  }

  /** The path of an entry, with its directory there and nothing in its place. */
  async #clear(name: string): Promise<string> {
    this.#entries += 1
    if (this.#entries > maxEntries) throw new Fault('invalid', `it has more than ${maxEntries} entries`)
    const path = this.#inside(name)
    if (path === this.#top) throw refused(name, 'it names the directory itself')
    await this.#parents(dirname(path), name)
    const there = await lstat(path).catch(() => undefined)
    if (there?.isDirectory()) throw refused(name, 'a directory of that name came before')
    if (there) await rm(path)
    return path
  }

  async #parents(directory: string, name: string): Promise<void> {
    if (directory === this.#top || this.#known.has(directory)) return
    await this.#parents(dirname(directory), name)
    const there = await lstat(directory).catch(() => undefined)
    if (!there) await mkdir(directory, { mode: 0o755 })
    else if (!there.isDirectory()) throw refused(name, 'it goes through a link or a file')
    this.#known.add(directory)
  }

  #inside(name: string): string {
    if (name.startsWith('/') || name.includes('\0')) throw refused(name, 'its path is absolute')
    const path = resolve(this.#top, name)
    this.#within(path, name, 'its path leads outside')
    return path
  }

  #within(path: string, name: string, why: string): void {
    if (path !== this.#top && !path.startsWith(`${this.#top}/`)) throw refused(name, why)
  }
}

class SizeLimit extends Transform {
  readonly #max: number
  #size = 0

  constructor(max: number) {
    super()
    this.#max = max
  }

  override _transform(
    chunk: Buffer,
    _encoding: BufferEncoding,
    done: (error?: Error | null, chunk?: Buffer) => void,
  ): void {
    this.#size += chunk.length
    if (this.#size > this.#max) done(tooLarge(this.#max))
    else done(null, chunk)
  }
}

async function textOf(content: Readable): Promise<string> {
  const parts: Buffer[] = []
  let size = 0
  for await (const part of content as AsyncIterable<Buffer>) {
    size += part.length
    if (size > 4096) throw new Fault('invalid', 'a link in the archive is longer than a path may be')
    parts.push(part)
  }
  return Buffer.concat(parts).toString('utf8')
}

function refused(name: string, why: string): Fault {
  return new Fault('invalid', `the archive's entry "${join('.', name).slice(0, 200)}" is refused: ${why}`)
}

function tooLarge(max: number): Fault {
  return new Fault('invalid', `unpacked it is larger than ${formatSize(max)}`)
}
