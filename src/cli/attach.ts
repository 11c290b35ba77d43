import { once } from 'node:events'
import type { Readable } from 'node:stream'
import type { Execution } from '../client/exec.ts'
import type { Cli, Output } from './cli.ts'

/** Joins our streams, our terminal and our signals to a command that runs elsewhere; resolves with its exit code. */
export function attach(
  cli: Cli,
  execution: Execution,
  { terminal, interactive }: { terminal: boolean; interactive: boolean },
): Promise<number> {
  return terminal ? withTerminal(cli, execution) : withPipes(cli, execution, interactive)
}

/** Ctrl-C goes to the command; pressed again without the command ending, it ends us. */
async function withPipes(cli: Cli, execution: Execution, interactive: boolean): Promise<number> {
  let interrupts = 0
  const gone = Promise.withResolvers<{ code: number }>()
  using _interrupt = cli.onInterrupt(() => {
    interrupts += 1
    if (interrupts === 1) execution.kill('SIGINT')
    else gone.resolve({ code: 130 })
  })
  if (interactive) cli.stdin.pipe(execution.stdin)
  else execution.stdin.end()
  const outputs = Promise.all([copy(execution.stdout, cli.stdout), copy(execution.stderr, cli.stderr)])
  const { code } = await Promise.race([gone.promise, execution.exited])
  if (interrupts < 2) await outputs
  release(cli, execution)
  return code
}

/** Every key goes to the command as it is pressed. Our terminal is put back whatever happens. */
async function withTerminal(cli: Cli, execution: Execution): Promise<number> {
  const resize = () => execution.resize(sizeOf(cli.stdout))
  cli.stdout.on('resize', resize)
  cli.stdin.setRawMode?.(true)
  const putBack = () => cli.stdin.setRawMode?.(false)
  process.once('exit', putBack)
  try {
    cli.stdin.pipe(execution.stdin)
    const output = copy(execution.stdout, cli.stdout)
    const { code } = await execution.exited
    await output
    return code
  } finally {
    putBack()
    process.off('exit', putBack)
    cli.stdout.off('resize', resize)
    release(cli, execution)
  }
}

/** Lets go of our standard input, or the process would wait for it. */
function release(cli: Cli, execution: Execution): void {
  cli.stdin.unpipe(execution.stdin)
  cli.stdin.pause()
  if ('unref' in cli.stdin && typeof cli.stdin.unref === 'function') cli.stdin.unref()
}

async function copy(from: Readable, to: Output): Promise<void> {
  for await (const chunk of from as AsyncIterable<Buffer>) {
    if (!to.write(chunk)) await once(to, 'drain')
  }
}

export function sizeOf({ columns, rows }: Output): { columns: number; rows: number } {
  return { columns: columns || 80, rows: rows || 24 }
}
