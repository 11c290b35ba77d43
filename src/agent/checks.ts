import type { Handle } from '../drivers/driver.ts'
import { type Clock, deadline } from '../kit/clock.ts'
import { Fault, sentence } from '../model/fault.ts'
import type { Check } from '../model/job.ts'
import { formatDuration } from '../model/units.ts'
import type { Probe } from './probe.ts'

export interface CheckOptions {
  checks: readonly Check[]
  clock: Clock
  probe: Probe
  handle: Handle
  /** Ports of the node by name. */
  ports: Readonly<Record<string, number>>
  /** Where the node can be reached, for tasks that listen only there. */
  address: string
  /** Asked to answer whenever one check changes its mind. */
  onChange: (state: { healthy: boolean; failed: boolean; message: string; restart: boolean }) => void
  /** All checks passed when an earlier agent asked last. */
  wasHealthy: boolean
  signal: AbortSignal
}

/**
 * Asks every check again and again while the attempt lives. A check counts as failed after so many failures in a row
 * outside its grace; it passes again with the first success. The task is healthy when all of its checks pass.
 */
export function runChecks(options: CheckOptions): void {
  const passing = options.checks.map(() => options.wasHealthy)
  options.checks.forEach((check, index) => {
    void follow(check, options, (passed, message) => {
      passing[index] = passed
      const healthy = passing.every(Boolean)
      options.onChange({ healthy, failed: !passed, message, restart: !passed && check.restart })
    })
  })
}

/** Before the first success it asks more often, so that a task that needs a second is known to be up after a second. */
const eagerMs = 500

async function follow(
  check: Check,
  options: CheckOptions,
  report: (passed: boolean, message: string) => void,
): Promise<void> {
  const { clock, signal } = options
  const begun = clock.monotonic()
  let state: 'unknown' | 'passing' | 'failing' = options.wasHealthy ? 'passing' : 'unknown'
  let failures = 0
  try {
    while (!signal.aborted) {
      const failure = await ask(check, options)
      if (signal.aborted) return
      if (failure === undefined) {
        failures = 0
        if (state !== 'passing') report(true, `its ${describe(check)} passes`)
        state = 'passing'
      } else if (state === 'passing' || clock.monotonic() - begun >= check.grace) {
        failures += 1
        if (failures >= check.failures && state !== 'failing') {
          state = 'failing'
          report(false, `its ${describe(check)} failed ${failures} times in a row: ${failure}`)
        }
      }
      await clock.sleep(state === 'unknown' ? Math.min(eagerMs, check.interval) : check.interval, { signal })
    }
  } catch (error) {
    if (!signal.aborted) throw error
  }
}

/** Undefined when it passed, else why not. */
async function ask(
  check: Check,
  { clock, probe, handle, ports, address, signal }: CheckOptions,
): Promise<string | undefined> {
  using limit = deadline(clock, check.timeout, signal)
  try {
    if (check.type === 'script') {
      await script(handle, check.command, limit.signal)
      return undefined
    }
    const port = ports[check.port]
    if (port === undefined) return `it has no port "${check.port}"`
    await eitherHost(address, (host) =>
      check.type === 'tcp'
        ? probe.tcp({ host, port }, { signal: limit.signal })
        : probe.http({ host, port, path: check.path }, { signal: limit.signal }),
    )
    return undefined
  } catch (error) {
    return limit.signal.aborted && !signal.aborted
      ? `no answer within ${formatDuration(check.timeout)}`
      : sentence(error)
  }
}

/** Some listen on the loopback address only, some on the node's only. */
async function eitherHost(address: string, ask: (host: string) => Promise<void>): Promise<void> {
  try {
    await ask('127.0.0.1')
  } catch (error) {
    if (address === '127.0.0.1' || (error as { code?: unknown }).code !== 'ECONNREFUSED') throw error
    await ask(address)
  }
}

async function script(handle: Handle, command: string[], signal: AbortSignal): Promise<void> {
  const run = await handle.guest.exec({ command, env: {} }, { signal })
  run.stdin.end()
  run.stdin.on('error', () => {})
  let output = ''
  for (const stream of [run.stdout, run.stderr]) {
    stream?.on('data', (chunk: Buffer) => {
      if (output.length < 2000) output += chunk.toString('utf8')
    })
    stream?.on('error', () => {})
  }
  const cut = Promise.withResolvers<never>()
  const abort = () => cut.reject(signal.reason)
  signal.addEventListener('abort', abort, { once: true })
  cut.promise.catch(() => {})
  try {
    const { code } = await Promise.race([run.exited, cut.promise])
    if (code === 0) return
    const said = output.trim().split('\n').at(-1)?.slice(0, 200)
    throw new Fault(
      'unavailable',
      `"${command.join(' ').slice(0, 100)}" exited with code ${code}${said ? `: ${said}` : ''}`,
    )
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

function describe(check: Check): string {
  if (check.type === 'script') return 'script check'
  return check.type === 'http'
    ? `http check of ${check.path} on port "${check.port}"`
    : `tcp check of port "${check.port}"`
}
