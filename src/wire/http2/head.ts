import { Fault } from '../../model/fault.ts'
import type { Http2Stream } from './byte-stream.ts'

/**
 * The first line of an HTTP/2 stream and the bytes that came with it; the stream is left paused after them.
 * Rejects when the stream ends, is cut off or is aborted before the line is complete, or when the line is too long.
 */
export function readHead(stream: Http2Stream, { maxBytes, lost, signal }: HeadOptions): Promise<Head> {
  return new Promise((resolve, reject) => {
    const pieces: Buffer[] = []
    let length = 0
    const settle = (outcome: () => void) => {
      stream.off('data', onData).off('end', onEnd).off('error', onEnd).off('close', onEnd)
      signal?.removeEventListener('abort', onAbort)
      outcome()
    }
    const onData = (chunk: Buffer) => {
      const end = chunk.indexOf(10)
      length += end === -1 ? chunk.length : end
      if (length > maxBytes) {
        return settle(() => reject(new Fault('invalid', `the first line is over the limit of ${maxBytes} bytes`)))
      }
      if (end === -1) return void pieces.push(chunk)
      stream.pause()
      const line = Buffer.concat([...pieces, chunk.subarray(0, end)]).toString('utf8')
      settle(() => resolve({ line, rest: chunk.subarray(end + 1) }))
    }
    const onEnd = () => settle(() => reject(lost()))
    const onAbort = () => settle(() => reject(signal?.reason))
    if (signal?.aborted) return reject(signal.reason)
    if (stream.destroyed) return reject(lost())
    signal?.addEventListener('abort', onAbort, { once: true })
    stream.on('data', onData).on('end', onEnd).on('error', onEnd).on('close', onEnd)
  })
}

export interface Head {
  line: string
  rest: Buffer
}

export interface HeadOptions {
  maxBytes: number
  lost: () => Fault
  signal?: AbortSignal | undefined
}
