import { once } from 'node:events'
import type { Readable } from 'node:stream'
import type { Execution } from '../client/exec.ts'
import type { Cli, Output } from './cli.ts'

/** Joins our streams, our terminal and our signals to a command that runs elsewhere; resolves with its exit code. */
export function attach(
  cli: Cli,
  execution: Execution,
  { terminal, interactive, mayLeave = false }: AttachOptions,
): Promise<number> {
  return terminal ? withTerminal(cli, execution, mayLeave) : withPipes(cli, execution, interactive)
}

interface AttachOptions {
  terminal: boolean
  interactive: boolean
  /** Ctrl-] on a terminal lets go of the command, which goes on. */
  mayLeave?: boolean
}

/** Shows what a command writes until it ends. Ctrl-C lets go of it, and it goes on. */
export async function watchOutput(cli: Cli, execution: Execution): Promise<number> {
  const left = Promise.withResolvers<{ code: number }>()
  using _interrupt = cli.onInterrupt(() => left.resolve({ code: 130 }))
  const outputs = Promise.all([copy(execution.stdout, cli.stdout), copy(execution.stderr, cli.stderr)])
  outputs.catch(() => {})
  const ended = execution.exited.then(async (exit) => {
    await outputs
    return exit
  })
  const { code } = await Promise.race([left.promise, ended])
  execution.close()
  return code
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

/** Ctrl-], as in telnet. */
const leaveKey = 0x1d

/** Every key goes to the command as it is pressed. Our terminal is put back whatever happens. */
async function withTerminal(cli: Cli, execution: Execution, mayLeave: boolean): Promise<number> {
  const resize = () => execution.resize(sizeOf(cli.stdout))
  cli.stdout.on('resize', resize)
  cli.stdin.setRawMode?.(true)
  const putBack = () => cli.stdin.setRawMode?.(false)
  process.once('exit', putBack)
  try {
    // It may have been started on a terminal of another size.
    if (mayLeave) resize()
    const left = Promise.withResolvers<undefined>()
    if (mayLeave) cli.stdin.on('data', (keys: Buffer) => void (keys.includes(leaveKey) && left.resolve(undefined)))
    cli.stdin.pipe(execution.stdin)
    const output = copy(execution.stdout, cli.stdout)
    output.catch(() => {})
    const exit = await Promise.race([execution.exited, left.promise])
    if (exit) await output
    else execution.close()
    return exit?.code ?? 0
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
