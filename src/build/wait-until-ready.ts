import type { GuestExecution } from '../guest/channel.ts'
import { deadline } from '../kit/clock.ts'
import { Fault, StepFault } from '../model/fault.ts'
import { type BuildMachine, lastLines } from './machine.ts'
import type { SaveOptions } from './save-template.ts'
import { runCommand } from './steps/run-command.ts'

const everyMs = 500
/** How long a start command is watched when nothing says what ready means. */
const settleMs = 1000

/** Until the ready command succeeds. A start command that ends before that will not become ready any more, unless it went well. */
export async function waitUntilReady(
  options: SaveOptions & { guest: BuildMachine; started: GuestExecution | undefined },
): Promise<void> {
  const { recipe, defaults, parts, guest, started, report, signal } = options
  const { clock } = parts
  const output = started && listen(started)
  const ended = new AbortController()
  let exit: number | undefined
  started?.exited.then(
    ({ code }) => {
      exit = code
      ended.abort()
    },
    () => {},
  )
  const failIfEnded = () => {
    if (exit === undefined || (exit === 0 && recipe.ready !== undefined)) return
    const said =
      output === undefined || output.length === 0 ? ', and said nothing' : `: ${lastLines(output.join('\n'), 5)}`
    throw new StepFault(
      'invalid',
      `the start command ended with exit code ${exit} before the template was saved${said}`,
    )
  }
  if (recipe.ready === undefined) {
    // Most that fail do so at once.
    if (started) await clock.sleep(settleMs, { signal: AbortSignal.any([signal, ended.signal]) }).catch(() => {})
    signal.throwIfAborted()
    if (exit !== 0) failIfEnded()
    return
  }
  const { command, timeoutMs } = recipe.ready
  report('start', `waiting until ready: ${command}`)
  using limit = deadline(clock, timeoutMs, signal)
  let last = 'it was never answered'
  while (!limit.signal.aborted) {
    failIfEnded()
    try {
      const result = await runCommand(guest.channel, { command, surroundings: defaults, signal: limit.signal })
      if (result.code === 0) return report('start', 'ready')
      last = `exit code ${result.code}${result.output.length > 0 ? `: ${lastLines(result.output.join('\n'), 3)}` : ''}`
    } catch (error) {
      if (!limit.signal.aborted) throw Fault.from(error)
    }
    await clock.sleep(everyMs, { signal: limit.signal }).catch(() => {})
  }
  signal.throwIfAborted()
  failIfEnded()
  throw new StepFault(
    'unavailable',
    `the template was not ready within ${timeoutMs / 1000} s; "${command}" said last: ${last}`,
  )
}

/** The last lines of a command that goes on; read without end, so that it is never held up. */
function listen(started: GuestExecution): string[] {
  const lines: string[] = []
  started.stdin.on('error', () => {})
  for (const stream of [started.stdout, started.stderr]) {
    stream?.setEncoding('utf8')
    stream?.on('error', () => {})
    stream?.on('data', (chunk: string) => {
      lines.push(...chunk.split('\n').filter((line) => line !== ''))
      lines.splice(0, lines.length - 20)
    })
  }
  return lines
}
