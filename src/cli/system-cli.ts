import { systemClock } from '../kit/system-clock.ts'
import { systemRandom } from '../kit/system-random.ts'
import type { Cli } from './cli.ts'
import { exitCodes } from './exit-codes.ts'
import { findHome } from './home.ts'

/** The process that the command line runs in: its streams, its signals, its files. */
export function openCli(): Cli {
  const interrupted = new AbortController()
  const handlers: (() => void)[] = []
  const onSignal = () => {
    const handler = handlers.at(-1)
    if (handler) handler()
    else if (interrupted.signal.aborted) process.exit(exitCodes.interrupted)
    else interrupted.abort(new Error('interrupted'))
  }
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      // Whoever reads our output has had enough: end quietly, as other tools do.
      if (error.code === 'EPIPE') process.exit(exitCodes.ok)
      // A result that is not whole, as where it goes to a file on a full disk, must not look like one.
      if (stream === process.stdout) process.stderr.write(`tutti: the output could not be written: ${error.message}\n`)
      process.exit(exitCodes.failed)
    })
  }
  const home = findHome()
  const cli: Cli = {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    home,
    clock: systemClock,
    random: systemRandom,
    signal: interrupted.signal,
    onInterrupt: (handler) => {
      handlers.push(handler)
      return { [Symbol.dispose]: () => void handlers.splice(handlers.indexOf(handler), 1) }
    },
    client: async (contextName) => {
      const { connect } = await import('./connect.ts')
      return connect(cli, contextName)
    },
  }
  return cli
}
