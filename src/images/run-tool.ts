import { spawn } from 'node:child_process'
import { Fault } from '../model/fault.ts'

/** Runs one of the tools that images and containers are made with, and keeps a bounded part of what it said. */
export async function runTool(
  program: string,
  args: readonly string[],
  options: ToolOptions = {},
): Promise<ToolResult> {
  const { signal, env, keepBytes = 1 << 20, onLine } = options
  signal?.throwIfAborted()
  const child = spawn(program, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(env ? { env: { ...process.env, ...env } } : {}),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  })
  const stop = () => child.kill('SIGKILL')
  signal?.addEventListener('abort', stop, { once: true })
  try {
    const output = { stdout: '', stderr: '' }
    for (const name of ['stdout', 'stderr'] as const) {
      const stream = child[name].setEncoding('utf8')
      stream.on('data', (chunk: string) => {
        output[name] = (output[name] + chunk).slice(-keepBytes)
        if (onLine) for (const line of chunk.split('\n')) if (line.trim() !== '') onLine(line.trim())
      })
    }
    const code = await new Promise<number>((resolve, reject) => {
      child.on('error', (error: NodeJS.ErrnoException) => reject(cannotRun(program, error)))
      child.on('close', (exit) => resolve(exit ?? 255))
    })
    signal?.throwIfAborted()
    return { code, ...output }
  } finally {
    signal?.removeEventListener('abort', stop)
  }
}

export interface ToolOptions {
  /** Aborting kills the tool. */
  signal?: AbortSignal | undefined
  env?: Record<string, string>
  cwd?: string
  keepBytes?: number
  onLine?: (line: string) => void
}

export interface ToolResult {
  code: number
  stdout: string
  stderr: string
}

/** The last thing a tool said: the sentence people need. */
export function lastLine({ stdout, stderr }: Pick<ToolResult, 'stdout' | 'stderr'>): string {
  const lines = `${stdout}\n${stderr}`.split('\n').filter((line) => line.trim() !== '')
  return (lines.at(-1) ?? 'it said nothing').trim().slice(0, 500)
}

function cannotRun(program: string, error: NodeJS.ErrnoException): Fault {
  const why = error.code === 'ENOENT' ? 'it is not installed' : error.message
  return new Fault('unavailable', `cannot run "${program}": ${why}; install it with "apt-get install ${program}"`, {
    cause: error,
  })
}
