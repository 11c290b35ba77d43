import { once } from 'node:events'
import type { LogChunk } from '../../client/logs.ts'
import type { Cli, Output } from '../cli.ts'

/**
 * Writes task output where it belongs: stdout to stdout, stderr to stderr. With a prefix, whole lines only, so that
 * those of several copies do not mix; without one, the very bytes.
 */
export async function copyLogs(cli: Cli, chunks: AsyncIterable<LogChunk>, prefix = ''): Promise<void> {
  const rest = { stdout: '', stderr: '' }
  const decoders = { stdout: new TextDecoder(), stderr: new TextDecoder() }
  for await (const { stream, data } of chunks) {
    const out = cli[stream]
    if (prefix === '') {
      await write(out, data)
      continue
    }
    const lines = (rest[stream] + decoders[stream].decode(data, { stream: true })).split('\n')
    rest[stream] = lines.pop() ?? ''
    if (lines.length > 0) await write(out, lines.map((line) => `${prefix}${line}\n`).join(''))
  }
  for (const stream of ['stdout', 'stderr'] as const) {
    if (rest[stream] !== '') await write(cli[stream], `${prefix}${rest[stream]}\n`)
  }
}

async function write(out: Output, data: Buffer | string): Promise<void> {
  if (!out.write(data)) await once(out, 'drain')
}
