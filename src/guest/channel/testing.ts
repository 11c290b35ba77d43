import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { systemClock } from '../../kit/system-clock.ts'
import { systemRandom } from '../../kit/system-random.ts'
import type { GuestChannel } from '../channel.ts'
import { connectGuest } from './connect.ts'

const arch = process.arch === 'x64' ? 'amd64' : 'arm64'
const root = new URL('../../../', import.meta.url).pathname
export const agentPath = `${root}guest/dist/tutti-guest-${arch}`

/** The same with checks of memory and arithmetic: `guest/build --sanitize`. */
export const sanitizedPath = `${root}guest/dist/tutti-guest-sanitize`

/** Builds the agent; the reason to skip when that cannot be done here. */
export function lackingAgent(): string | undefined {
  if (process.platform !== 'linux') return 'needs Linux'
  try {
    execFileSync(`${root}guest/build`, { stdio: 'pipe' })
  } catch (error) {
    return `needs a compiler: ${String((error as { stderr?: unknown }).stderr ?? error).trim()}`
  }
  return existsSync(agentPath) ? undefined : `needs a compiler for ${arch}`
}

/** The reason to skip when one of the programs is not there. */
export function lackingPrograms(programs: readonly string[]): string | undefined {
  const missing = programs.filter((program) => {
    try {
      return execFileSync('sh', ['-c', `command -v ${program}`]).length === 0
    } catch {
      return true
    }
  })
  return missing.length > 0 ? `needs ${missing.join(', ')}` : undefined
}

/** An agent on this machine, that touches nothing of it, and the port of it: plug in as often as you like. */
export interface TestAgent extends AsyncDisposable {
  readonly process: ChildProcess
  /** A new connection to the port; destroying it leaves the agent's end as it is, as a VMM does. */
  plug(): Duplex
  connect(options?: { token?: string; socket?: Duplex }): Promise<GuestChannel>
}

interface StartOptions {
  command?: string[]
  env?: Record<string, string>
}

export function startAgent({ command = [agentPath], env = {} }: StartOptions = {}): TestAgent {
  const [program = agentPath, ...args] = [...command, '--fd', '3', '--no-system']
  const agent = spawn(program, args, {
    stdio: ['ignore', 'inherit', 'inherit', 'pipe'],
    env: { ...process.env, ...env },
  })
  const port = agent.stdio[3] as Socket
  const ended = new Promise<void>((resolve) => agent.once('exit', () => resolve()))
  let plugged: Duplex | undefined
  port.on('error', () => {})
  port.on('data', (chunk: Buffer) => {
    // Without a peer bytes are swallowed.
    if (plugged && !plugged.destroyed && !plugged.push(chunk)) port.pause()
  })
  port.on('close', () => plugged?.destroy())
  const plug = () => {
    plugged?.destroy()
    const duplex = new Duplex({
      read: () => void port.resume(),
      write: (chunk, _encoding, done) => void (port.write(chunk) ? done() : port.once('drain', () => done())),
    })
    duplex.once('close', () => port.resume())
    plugged = duplex
    port.resume()
    return duplex
  }
  return {
    process: agent,
    plug,
    connect: ({ token, socket } = {}) =>
      connectGuest({
        socket: socket ?? plug(),
        token,
        random: systemRandom,
        clock: systemClock,
        signal: AbortSignal.timeout(20_000),
      }),
    async [Symbol.asyncDispose]() {
      port.destroy()
      await ended
    },
  }
}
