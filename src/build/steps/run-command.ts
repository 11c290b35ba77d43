import type { Readable } from 'node:stream'
import type { Defaults } from '../../blocks/manifest.ts'
import type { GuestChannel } from '../../guest/channel.ts'
import { Fault } from '../../model/fault.ts'

/** Where the image says nothing, as every container engine has it. */
export const defaultPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
/** For what a build itself runs in the guest. */
export const ownSurroundings: Defaults = { env: { PATH: defaultPath }, user: 'root', cwd: '/' }

export interface RunOptions {
  command: string | string[]
  surroundings: Defaults
  /** Beyond the surroundings' environment. */
  args?: Record<string, string>
  input?: (stdin: NodeJS.WritableStream) => Promise<void>
  /** What of a line of output may be shown. */
  hide?: ((line: string) => string) | undefined
  /** Called for every line of output. */
  onLine?: (line: string) => void
  signal: AbortSignal
}

export interface RunResult {
  code: number
  /** The last lines of what it said. */
  output: string[]
}

const keptLines = 20
const maxLine = 2000

/** Runs a command in the guest to its end. A line of text goes to `/bin/sh`. */
export async function runCommand(channel: GuestChannel, options: RunOptions): Promise<RunResult> {
  const { command, surroundings, args = {}, input, hide, onLine, signal } = options
  const { user, cwd } = surroundings
  const execution = await channel.start(
    {
      command: typeof command === 'string' ? ['/bin/sh', '-c', command] : command,
      env: { ...args, ...surroundings.env },
      cwd,
      user,
    },
    { signal },
  )
  const output: string[] = []
  const hear = (said: string) => {
    const line = hide ? hide(said) : said
    output.push(line)
    if (output.length > keptLines) output.shift()
    onLine?.(line)
  }
  // What a command does not read is not an error of ours.
  execution.stdin.on('error', () => {})
  const feeding = input?.(execution.stdin).catch((error: unknown) => {
    if (isClosed(error)) return undefined
    // Nothing more comes, and it would wait for it.
    execution.kill('SIGKILL')
    return error
  })
  if (!input) execution.stdin.end()
  const hearing = Promise.all([execution.stdout, execution.stderr].map((stream) => stream && eachLine(stream, hear)))
  // When the command is lost its end says so first.
  hearing.catch(() => {})
  const { code } = await execution.exited
  await hearing
  signal.throwIfAborted()
  const failed = await feeding
  if (failed !== undefined) throw failed
  return { code, output }
}

/** Whether the guest lacks the program, as images of one program lack a shell. */
export function isMissing(error: unknown): boolean {
  return error instanceof Fault && ['not_found', 'invalid'].includes(error.code)
}

/** The command took no more, which its exit code explains. */
function isClosed(error: unknown): boolean {
  const { code = '' } = error as NodeJS.ErrnoException
  return ['EPIPE', 'ERR_STREAM_PREMATURE_CLOSE', 'ERR_STREAM_DESTROYED', 'ERR_STREAM_WRITE_AFTER_END'].includes(code)
}

async function eachLine(stream: Readable, hear: (line: string) => void): Promise<void> {
  let rest = ''
  for await (const chunk of stream.setEncoding('utf8')) {
    const lines = (rest + chunk).split(/\r?\n|\r/)
    rest = (lines.pop() ?? '').slice(-maxLine)
    for (const line of lines) hear(line.slice(0, maxLine))
  }
  if (rest !== '') hear(rest)
}
