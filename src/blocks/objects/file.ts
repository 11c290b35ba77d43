import { type FileHandle, open, readdir, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Random } from '../../kit/random.ts'
import { Fault } from '../../model/fault.ts'
import { type Files, fileFault, makeDirectory, putInPlace, realFiles } from '../files.ts'
import type { ObjectStore } from '../objects.ts'
import { checkKey } from './keys.ts'

/** What lies beside the objects in a directory and is none: unfinished files, cached ones, the lock. */
const besides = new Set(['tmp', 'cache', 'lock'])

/** Objects as files of a directory, which may be the directory of a content store. */
export function fileObjects({
  directory,
  random,
  files = realFiles,
}: {
  directory: string
  random: Random
  files?: Files
}): ObjectStore {
  const pathOf = (key: string) => join(directory, checkKey(key))
  const failed = (verb: string, key: string) => (error: unknown) => {
    throw fileFault(`cannot ${verb} ${key} in file:${directory}`, error)
  }
  return {
    url: `file:${directory}`,

    async get(key, { offset = 0, length, signal } = {}) {
      signal?.throwIfAborted()
      try {
        await using handle = await open(pathOf(key), 'r')
        const { size } = await handle.stat()
        return await readFrom(handle, offset, Math.min(length ?? size, size - offset))
      } catch (error) {
        return failed('read', key)(error)
      }
    },

    async tail(key, length) {
      try {
        await using handle = await open(pathOf(key), 'r')
        const { size } = await handle.stat()
        const offset = Math.max(0, size - length)
        return { bytes: await readFrom(handle, offset, size - offset), size }
      } catch (error) {
        if ((error as { code?: string }).code === 'ENOENT') return undefined
        return failed('read', key)(error)
      }
    },

    async size(key) {
      try {
        return (await stat(pathOf(key))).size
      } catch (error) {
        if ((error as { code?: string }).code === 'ENOENT') return undefined
        return failed('look for', key)(error)
      }
    },

    async put(key, body, { size, signal }) {
      const path = pathOf(key)
      const unfinished = join(directory, 'tmp', `put-${Buffer.from(random.bytes(8)).toString('hex')}`)
      try {
        await makeDirectory(files, join(directory, 'tmp'))
        await makeDirectory(files, dirname(path))
        const file = await files.create(unfinished)
        try {
          let at = 0
          for await (const piece of Buffer.isBuffer(body) ? [body] : body()) {
            signal?.throwIfAborted()
            await file.write([piece as Buffer], at)
            at += (piece as Buffer).length
          }
          if (at !== size) throw new Fault('invalid', `${key} has ${at} bytes, not the ${size} that were announced`)
          await file.sync()
        } finally {
          await file.close()
        }
        await putInPlace(files, unfinished, path)
      } catch (error) {
        await files.remove(unfinished).catch(() => {})
        if (signal?.aborted) throw signal.reason
        failed('write', key)(error)
      }
    },

    async delete(key) {
      await rm(pathOf(key), { force: true }).catch(failed('delete', key))
    },

    async *list(prefix) {
      const parent = prefix.includes('/') ? prefix.slice(0, prefix.lastIndexOf('/')) : ''
      if (parent !== '') checkKey(parent)
      const keys = await filesBelow(directory, parent).catch(failed('list', prefix))
      for (const key of (keys ?? []).filter((name) => name.startsWith(prefix)).sort()) {
        const found = await stat(join(directory, key)).catch(() => undefined)
        if (found) yield { key, size: found.size, changedAt: Math.floor(found.mtimeMs) }
      }
    },
  }
}

/** Fewer bytes where the file ends earlier. */
async function readFrom(handle: FileHandle, offset: number, length: number): Promise<Buffer> {
  const target = Buffer.allocUnsafe(Math.max(0, length))
  let at = 0
  while (at < target.length) {
    const { bytesRead } = await handle.read(target, at, target.length - at, offset + at)
    if (bytesRead === 0) break
    at += bytesRead
  }
  return target.subarray(0, at)
}

async function filesBelow(root: string, parent: string): Promise<string[]> {
  const found: string[] = []
  const entries = await readdir(join(root, parent), { withFileTypes: true }).catch((error: { code?: string }) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return []
    throw error
  })
  for (const entry of entries) {
    if (parent === '' && besides.has(entry.name)) continue
    const key = parent === '' ? entry.name : `${parent}/${entry.name}`
    if (entry.isDirectory()) found.push(...(await filesBelow(root, key)))
    else if (entry.isFile()) found.push(key)
  }
  return found
}
