import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { lstatSync, openSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import type { Log } from '../../kit/log.ts'
import { findBuilt } from '../built.ts'

/**
 * A file system in which a VMM finds what it needs to run and nothing else of this machine's. Nobody outside sees its
 * mounts, and no directory has them: they go when the last of us and of those that run in it has ended, however.
 */
export interface OwnRoot {
  /** The program that starts others in it; see native/enclose.c. */
  readonly enclose: string
  /** Its mounts, as a descriptor that is ours as long as we live. Every VMM gets a copy of them for itself. */
  readonly mounts: number
}

export interface OwnRootOptions {
  /** What it shows, read-only, at the same places: files, directories, devices, links. What is not there is left out. */
  shows: () => readonly string[]
  /** Runs what is to run in it, to see whether all that it takes is there; rejects when not. */
  tryOut: (root: OwnRoot) => Promise<void>
  log: Log
}

/** Of every distribution: where libraries are, and where the loader is told to look for them. */
export const libraries = ['/usr/lib', '/usr/lib64', '/lib', '/lib64', '/etc/ld.so.cache']

/**
 * Gives the root, made when it is first asked for, and again when one of the files in it was replaced, such as by an
 * upgrade; undefined where none can be made, which is said.
 */
export function ownRoot({ shows, tryOut, log }: OwnRootOptions): () => Promise<OwnRoot | undefined> {
  let known: { of: string; root: Promise<OwnRoot | undefined> } | undefined
  const make = async (shown: readonly string[]) => {
    try {
      const root = await open(shown)
      await tryOut(root)
      return root
    } catch (error) {
      log.info({ error }, 'VMMs see the files of this machine that everybody may read')
      return undefined
    }
  }
  return () => {
    const shown = shows()
    const of = shown.map(identityOf).join()
    // One that is replaced stays open: a machine may be starting in it.
    if (known?.of !== of) known = { of, root: make(shown) }
    return known.root
  }
}

async function open(shows: readonly string[]): Promise<OwnRoot> {
  const enclose = findBuilt('enclose')
  if (enclose === undefined) throw new Error('native/enclose.c was not built')
  const child = spawn(enclose, ['show', ...shows], { stdio: 'pipe' })
  const [said, refused, exit] = [once(child.stdout, 'data'), text(child.stderr), once(child, 'exit')]
  said.catch(() => {})
  exit.catch(() => {})
  try {
    const isReady = await Promise.race([said.then(() => true), exit.then(() => false)])
    if (!isReady) throw new Error((await refused).trim())
    return { enclose, mounts: openSync(`/proc/${child.pid}/ns/mnt`, 'r') }
  } finally {
    child.stdin.destroy()
    await exit
  }
}

/** A directory shows what is in it now; a file is the one that was there. */
function identityOf(path: string): string {
  const found = lstatSync(path, { throwIfNoEntry: false })
  return found === undefined || found.isDirectory() ? path : `${path}:${found.dev}:${found.ino}:${found.mtimeMs}`
}
