import { PassThrough, type Readable } from 'node:stream'
import { sentence } from '../model/fault.ts'
import { encodeFrame, type FrameKind, frame, maxFrameBytes } from '../wire/frames.ts'

/** Two output streams as one, in frames that say which is which; a slow reader slows both. */
export function interleave(stdout: Readable, stderr: Readable): Readable {
  const out = new PassThrough({ highWaterMark: 2 ** 20 })
  const copies = [copy(stdout, frame.stdout, out), copy(stderr, frame.stderr, out)]
  Promise.all(copies).then(
    () => out.end(),
    (error: unknown) =>
      out.end(encodeFrame(frame.fault, JSON.stringify({ code: 'unavailable', message: sentence(error) }))),
  )
  out.once('close', () => {
    stdout.destroy()
    stderr.destroy()
  })
  return out
}

async function copy(source: Readable, kind: FrameKind, out: PassThrough): Promise<void> {
  for await (const chunk of source as AsyncIterable<Buffer>) {
    for (let at = 0; at < chunk.length; at += maxFrameBytes) {
      if (!out.write(encodeFrame(kind, chunk.subarray(at, at + maxFrameBytes))))
        await new Promise((resolve) => out.once('drain', resolve))
      if (out.destroyed) return
    }
  }
}
