import { execFile, execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { systemClock } from '../../kit/system-clock.ts'
import type { BuildId } from '../../model/ids.ts'
import type { ObjectStore } from '../objects.ts'
import type { LocalContentStore } from '../open.ts'
import { openTestStore, temporaryDirectory } from '../testing.ts'
import { connectBlockServer } from './client.ts'
import type { AnswerOf, RequestName, RequestOf } from './protocol.ts'
import { type ServeBlocksOptions, serveBlocks } from './server.ts'

/** What the tests of the block server stand on. */

const execute = promisify(execFile)

/** Why a test that needs these programs is skipped, or false. */
export function without(...programs: string[]): string | false {
  const missing = programs.filter((program) => {
    try {
      return execFileSync('sh', ['-c', `command -v ${program}`]).length === 0
    } catch {
      return true
    }
  })
  return missing.length > 0 && `needs ${missing.join(', ')}`
}

export interface TestServer extends AsyncDisposable {
  directory: string
  content: LocalContentStore
  ask<N extends RequestName>(name: N, request: RequestOf<N>): Promise<AnswerOf<N>>
  /** Ends it without a word to anybody and serves the directory again. */
  restart(): Promise<void>
}

/** A block server in this process, with a content store of its own. */
export async function openTestServer({
  isElsewhere = false,
  behind,
  ...options
}: Partial<ServeBlocksOptions> & {
  /** It takes what it has for what lies in an object store only. */
  isElsewhere?: boolean
  /** The object store behind its content. */
  behind?: ObjectStore
} = {}): Promise<TestServer> {
  const scratch = await temporaryDirectory()
  const directory = join(scratch.path, 'server')
  const content = await openTestStore(join(scratch.path, 'content'), { upstream: behind })
  const socket = join(scratch.path, 's')
  const served: LocalContentStore = isElsewhere
    ? { ...content, open: async (...args) => ({ ...(await content.open(...args)), isHere: () => false }) }
    : content
  const start = async () => {
    const server = await serveBlocks({ directory, socket, content: served, clock: systemClock, ...options })
    return { server, client: await connectBlockServer({ socket, signal: AbortSignal.timeout(10_000) }) }
  }
  let running = await start()
  const end = async () => {
    await running.client[Symbol.asyncDispose]()
    await running.server[Symbol.asyncDispose]()
  }
  return {
    directory,
    content,
    ask: (name, request) => running.client.ask(name, request, { signal: AbortSignal.timeout(60_000) }),
    async restart() {
      await end()
      running = await start()
    },
    async [Symbol.asyncDispose]() {
      await end()
      await content[Symbol.asyncDispose]()
      await scratch[Symbol.asyncDispose]()
    },
  }
}

/** The fields of a `store` that tests care little about. */
export function storeRequest(build: BuildId, disk: { name: string; epoch: number }, parent: BuildId | null = null) {
  return {
    build,
    reason: 'pause' as const,
    parent,
    createdAt: 1_800_000_000_000,
    machine: { arch: 'amd64' as const, cpus: 1, memoryMiB: 64 },
    defaults: { env: {}, user: 'root', cwd: '/' },
    disk,
    snapshot: null as RequestOf<'store'>['snapshot'],
    reference: `test/${build}`,
  }
}

export function uri(socket: string): string {
  return `nbd+unix:///?socket=${socket}`
}

/** qemu-io with one connection for all commands; gives what it printed. */
export async function qemuIo(socket: string, ...commands: string[]): Promise<string> {
  const args = ['-f', 'raw', ...commands.flatMap((command) => ['-c', command]), uri(socket)]
  return run('qemu-io', ...args)
}

/** Never the synchronous way: the server that a program talks to runs in this process. */
export async function run(program: string, ...args: string[]): Promise<string> {
  const { stdout } = await execute(program, args, { timeout: 60_000 })
  return stdout
}
