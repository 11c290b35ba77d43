import type { LocalImage } from './local-image.ts'

/** What the block server and the threads that serve its disks say to each other. Files are numbers, since a process shares them. */
export type DiskRequest =
  | {
      kind: 'open'
      name: string
      socket: string
      /** Absent for an export that only shows an image. */
      overlay: { directory: string } | undefined
      size: number
      base: (LocalImage & { key: string }) | undefined
      bootId: bigint
    }
  | { kind: 'cut'; name: string }
  | { kind: 'close'; name: string }
  | { kind: 'traffic' }

/** Bytes that machines were given and gave. */
export interface Traffic {
  read: number
  written: number
}

export interface Fetched {
  kind: 'fetched'
  fetch: number
  fault: string | undefined
}

/** Answered by `fetched` when the chunks are in the file. */
export interface FetchAsked {
  kind: 'fetch'
  fetch: number
  key: string
  first: number
  last: number
}
