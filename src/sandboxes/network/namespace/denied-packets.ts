import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import type { Clock } from '../../../kit/clock.ts'
import type { Log } from '../../../kit/log.ts'

/**
 * Hears of every packet that the filter refused: the rules mark them as traced, and `nft monitor trace` tells of what is
 * traced. One process for all sandboxes; it ends with us, however we end.
 */
export interface DeniedPacket {
  /** The host's interface that it came in by. */
  device: string
  source: string
  address: string
  /** Such as `:443/udp` or `/icmp`. */
  rest: string
}

const restartMs = 1000

export async function watchDeniedPackets({
  table,
  onDenied,
  clock,
  log,
  through = [],
}: {
  table: string
  /** Puts the program into another namespace. */
  through?: readonly string[]
  onDenied: (packet: DeniedPacket) => void
  clock: Clock
  log: Log
}): Promise<AsyncDisposable> {
  const stopped = new AbortController()
  // A change of namespaces forgets the wish to die with us, so that it is wished after it.
  const [file = '', ...args] = [...through, 'setpriv', '--pdeathsig', 'KILL', 'nft', '--numeric', 'monitor', 'trace']
  const watch = () => {
    const child = spawn(file, args, {
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    child.on('error', () => {})
    createInterface({ input: child.stdout }).on('line', (line) => {
      const packet = readTrace(line, table)
      if (packet !== undefined) onDenied(packet)
    })
    return child
  }
  let child = watch()
  await once(child, 'spawn')
  const kept = keep()

  async function keep(): Promise<void> {
    for (;;) {
      if (child.exitCode === null && child.signalCode === null) await once(child, 'close').catch(() => {})
      if (stopped.signal.aborted) return
      log.warn({ code: child.exitCode }, 'the program that tells of denied packets ended; it is started again')
      await clock.sleep(restartMs, { signal: stopped.signal }).catch(() => {})
      if (stopped.signal.aborted) return
      child = watch()
    }
  }
  return {
    async [Symbol.asyncDispose]() {
      stopped.abort()
      child.kill('SIGKILL')
      await kept
    },
  }
}

/** One line of `nft monitor trace`; only those that show a packet of our table say where it went. */
export function readTrace(line: string, table: string): DeniedPacket | undefined {
  if (!line.includes(` ${table} `) || !line.includes(' packet: ')) return undefined
  const device = / [io]if "([^"]{1,15})"/.exec(line)?.[1]
  const source = / ip saddr ([\d.]{7,15}) /.exec(line)?.[1]
  const address = / ip daddr ([\d.]{7,15}) /.exec(line)?.[1]
  if (device === undefined || source === undefined || address === undefined) return undefined
  const port = / (tcp|udp|sctp|dccp|udplite) dport (\d{1,5})/.exec(line)
  const protocol = / ip protocol ([\w-]{1,12})/.exec(line)?.[1]
  const rest = port ? `:${port[2]}/${port[1]}` : `/${/ icmp type /.test(line) ? 'icmp' : (protocol ?? 'ip')}`
  return { device, source, address, rest }
}
