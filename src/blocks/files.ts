import { constants } from 'node:fs'
import { mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { Fault, type FaultCode } from '../model/fault.ts'

/**
 * The few things that make files last, kept apart so that tests can die before each of them: a file is written under
 * another name, synced, renamed, and its directory synced. After a crash there is the old state or the new one.
 */
export interface Files {
  /** A new file; it must not exist. */
  create(path: string): Promise<NewFile>
  rename(from: string, to: string): Promise<void>
  /** Makes the names in a directory durable. */
  syncDirectory(path: string): Promise<void>
  remove(path: string): Promise<void>
}

export interface NewFile {
  readonly fd: number
  write(pieces: readonly Uint8Array[], offset: number): Promise<void>
  /** Makes the bytes durable. */
  sync(): Promise<void>
  close(): Promise<void>
}

export const realFiles: Files = {
  async create(path) {
    const handle = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600)
    return {
      fd: handle.fd,
      write: async (pieces, offset) => {
        let rest = pieces as Uint8Array[]
        let at = offset
        while (rest.length > 0) {
          const { bytesWritten } = await handle.writev(rest, at)
          at += bytesWritten
          rest = after(rest, bytesWritten)
        }
      },
      sync: () => handle.datasync(),
      close: () => handle.close(),
    }
  },
  rename,
  async syncDirectory(path) {
    const handle = await open(path, 'r')
    try {
      await handle.sync()
    } finally {
      await handle.close()
    }
  },
  remove: (path) => rm(path, { force: true }),
}

/** Makes a written and synced file the one of that name, whole or not at all. */
export async function putInPlace(files: Files, from: string, to: string): Promise<void> {
  await files.rename(from, to)
  await files.syncDirectory(dirname(to))
}

/** A directory that will still be there after a crash; its parents too. */
export async function makeDirectory(files: Files, path: string): Promise<void> {
  const first = await mkdir(path, { recursive: true, mode: 0o700 })
  if (first === undefined) return
  for (let made = path; made.length >= first.length; made = dirname(made)) await files.syncDirectory(dirname(made))
}

const codes: Record<string, FaultCode> = {
  ENOENT: 'not_found',
  ENOTDIR: 'not_found',
  EMFILE: 'exhausted',
  ENFILE: 'exhausted',
  EACCES: 'denied',
  EPERM: 'denied',
  EROFS: 'denied',
}

/** What the system said about a file, as a Fault that says what was tried. */
export function fileFault(tried: string, error: unknown): Fault {
  if (error instanceof Fault) return error
  const code = (error as { code?: string }).code ?? ''
  // That says all there is to say, and whoever prints causes too would say it again.
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new Fault('exhausted', `${tried}: the disk is full; free some of it and try again`)
  return new Fault(codes[code] ?? 'unavailable', `${tried}: ${(error as Error).message}`, { cause: error })
}

function after(pieces: readonly Uint8Array[], written: number): Uint8Array[] {
  let skip = written
  const rest: Uint8Array[] = []
  for (const piece of pieces) {
    if (skip >= piece.byteLength) skip -= piece.byteLength
    else {
      rest.push(skip > 0 ? piece.subarray(skip) : piece)
      skip = 0
    }
  }
  return rest
}
