import { once } from 'node:events'
import type { Duplex } from 'node:stream'
import type { LogStream } from '../../wire/services.ts'
import type { LogFile } from '../workspace.ts'
import { findTask, type Service } from './service.ts'

/** A task's output as plain bytes: what is kept of it, or its last lines; with `follow`, on until the task has ended. */
export const logs: Service<LogStream> = async (request, stream, { parts, runner, signal }) => {
  const task = findTask(runner, request.task)
  const { output } = parts.workspace.places(runner.id, task.name)
  const file = parts.workspace.openLog(output[request.stream])
  const { start, end } = await file.extent()
  let offset = request.tail === undefined ? start : await lastLines(file, request.tail, { start, end })
  stream.on('error', () => {})
  // Nothing is expected, but the end of the other side is to be seen.
  stream.resume()
  while (!signal.aborted && !stream.destroyed) {
    // Asked before reading: what it wrote last is then surely read.
    const over = task.final
    const extent = await file.extent()
    if (offset < extent.start) offset = extent.start
    while (offset < extent.end && !stream.destroyed) {
      const chunk = await file.read(offset, Math.min(pieceBytes, extent.end - offset))
      if (chunk.length === 0) break
      offset += chunk.length
      await write(stream, chunk)
    }
    if (!request.follow || over) break
    await parts.clock.sleep(lookMs, { signal }).catch(() => {})
  }
  stream.end()
}

const pieceBytes = 64 * 1024
/** How often a followed file is looked at. */
const lookMs = 100

async function write(stream: Duplex, chunk: Buffer): Promise<void> {
  if (stream.write(chunk) || stream.destroyed) return
  await Promise.race([once(stream, 'drain'), once(stream, 'close')]).catch(() => {})
}

/** Where the last `count` lines begin, found by reading backwards. */
async function lastLines(
  file: LogFile,
  count: number,
  { start, end }: { start: number; end: number },
): Promise<number> {
  if (count === 0) return end
  let missing = count
  for (let upper = end; upper > start; ) {
    const lower = Math.max(start, upper - pieceBytes)
    const piece = await file.read(lower, upper - lower)
    for (let at = piece.length - 1; at >= 0; at--) {
      // A newline at the very end closes the last line and begins none.
      if (piece[at] !== 10 || lower + at === end - 1) continue
      missing -= 1
      if (missing === 0) return lower + at + 1
    }
    upper = lower
  }
  return start
}
