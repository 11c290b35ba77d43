import { Buffer } from 'node:buffer'

/**
 * The frames of an exec stream, between CLI, control plane and agent alike:
 * one byte kind, four bytes length (big-endian), payload. Over a WebSocket each message is one frame without the length.
 */
export const frame = { stdin: 0, stdout: 1, stderr: 2, resize: 3, signal: 4, exit: 5, stdinEnd: 6, fault: 7 } as const
export type FrameKind = (typeof frame)[keyof typeof frame]

export interface Frame {
  kind: FrameKind
  payload: Buffer
}

/** A payload is at most this long; longer output is cut into several frames. */
export const maxFrameBytes = 2 ** 20

const kinds: ReadonlySet<number> = new Set(Object.values(frame))

export function encodeFrame(kind: FrameKind, payload: Uint8Array | string = ''): Buffer {
  const body = typeof payload === 'string' ? Buffer.from(payload) : payload
  const out = Buffer.allocUnsafe(5 + body.length)
  out[0] = kind
  out.writeUInt32BE(body.length, 1)
  out.set(body, 5)
  return out
}

/** Cuts a byte stream into frames; throws on an unknown kind or an oversized frame. */
export class FrameDecoder {
  #chunks: Buffer[] = []
  #length = 0;

  *push(chunk: Buffer): Generator<Frame> {
    this.#chunks.push(chunk)
    this.#length += chunk.length
    while (this.#length >= 5) {
      const head = this.#peek(5)
      const kind = head[0] ?? 255
      const size = head.readUInt32BE(1)
      if (!kinds.has(kind)) throw new Error(`unknown frame kind ${kind}`)
      if (size > maxFrameBytes) throw new Error(`a frame of ${size} bytes is over the limit of ${maxFrameBytes}`)
      if (this.#length < 5 + size) return
      this.#take(5)
      yield { kind: kind as FrameKind, payload: this.#take(size) }
    }
  }

  #peek(count: number): Buffer {
    const first = this.#chunks[0]
    if (first && first.length >= count) return first.subarray(0, count)
    return Buffer.concat(this.#chunks).subarray(0, count)
  }

  #take(count: number): Buffer {
    this.#length -= count
    const first = this.#chunks[0]
    if (first && first.length > count) {
      this.#chunks[0] = first.subarray(count)
      return first.subarray(0, count)
    }
    const taken: Buffer[] = []
    let missing = count
    while (missing > 0) {
      const chunk = this.#chunks.shift()
      if (!chunk) break
      if (chunk.length > missing) {
        taken.push(chunk.subarray(0, missing))
        this.#chunks.unshift(chunk.subarray(missing))
        missing = 0
      } else {
        taken.push(chunk)
        missing -= chunk.length
      }
    }
    return taken.length === 1 && taken[0] ? taken[0] : Buffer.concat(taken)
  }
}
