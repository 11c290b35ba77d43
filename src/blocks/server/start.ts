import { spawn } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { mkdir, readFile } from 'node:fs/promises'
import { extname, join } from 'node:path'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import { connectBlockServer } from './client.ts'
import type { BlockServer } from './protocol.ts'

export interface StartBlockServerOptions {
  /** Of the block server; one process serves it. */
  directory: string
  /** Where the content store lies; in the directory unless said otherwise. */
  content?: string
  /** Object store for builds that are not here, such as `s3://bucket/prefix`. */
  upstream?: string | undefined
  clock: Clock
  signal: AbortSignal
}

const pollMs = 10
const patienceMs = 30_000
/** Of one that found another process serving the directory, which then answers before long; see main.ts. */
const exitCodeOfSecond = 75

/** Where a directory's block server answers. */
export function blockServerSocket(directory: string): string {
  return join(directory, 'control')
}

/** The block server of this directory: the one that runs, or a new one in a session of its own, which outlives us. */
export async function startBlockServer(options: StartBlockServerOptions): Promise<BlockServer> {
  const { directory, clock, signal } = options
  const socket = blockServerSocket(directory)
  const running = await connectBlockServer({ socket, signal }).catch(() => undefined)
  if (running) return running
  signal.throwIfAborted()
  await mkdir(directory, { recursive: true, mode: 0o700 })
  let child = spawnServer(options, socket)
  for (let waitedMs = 0; waitedMs < patienceMs; waitedMs += pollMs) {
    const server = await connectBlockServer({ socket, signal }).catch(() => undefined)
    if (server) return server
    const code = child.exitCode()
    if (code !== undefined && code !== exitCodeOfSecond) {
      const words = await readFile(logPath(directory), 'utf8').catch(() => '')
      throw new Fault('unavailable', `the block server did not start: ${words.trim().split('\n').at(-1) ?? ''}`)
    }
    // The other may have been about to end.
    if (code === exitCodeOfSecond) child = spawnServer(options, socket)
    await clock.sleep(pollMs, { signal })
  }
  throw new Fault('unavailable', `the block server did not answer at ${socket} within ${patienceMs / 1000} s`)
}

function spawnServer(
  { directory, content, upstream }: StartBlockServerOptions,
  socket: string,
): { exitCode: () => number | undefined } {
  const program = new URL(`./main${extname(import.meta.url)}`, import.meta.url).pathname
  const log = openSync(logPath(directory), 'a', 0o600)
  const where = ['--directory', directory, '--socket', socket, ...(content ? ['--content', content] : [])]
  if (upstream) where.push('--upstream', upstream)
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', program, ...where], {
    detached: true,
    stdio: ['ignore', 'ignore', log],
  })
  closeSync(log)
  let ended: number | undefined
  child.on('exit', (code) => {
    ended = code ?? 1
  })
  child.on('error', () => {
    ended = 1
  })
  child.unref()
  return { exitCode: () => ended }
}

function logPath(directory: string): string {
  return join(directory, 'log')
}
