import { Buffer } from 'node:buffer'

/**
 * The frames of an exec stream, between CLI, control plane and agent alike:
 * one byte kind, four bytes length (big-endian), payload. Over a WebSocket each message is one frame without the length.
 */
export const frame = {
  ...{ stdin: 0, stdout: 1, stderr: 2, resize: 3, signal: 4, exit: 5, stdinEnd: 6, fault: 7 },
  /** First of all, of a command in a sandbox: how to join it again. */
  started: 8,
} as const
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

/**
 * Cuts a byte stream into frames; throws on an unknown kind or an oversized frame. Time and memory grow with the frame,
 * not with the number of pieces that it comes in.
 */
export class FrameDecoder {
  readonly #head = Buffer.alloc(5)
  #headLength = 0
  /** A payload that came in more than one piece, as far as it has come. */
  #payload: Buffer | undefined
  #filled = 0;

  *push(chunk: Buffer): Generator<Frame> {
    let rest = chunk
    while (rest.length > 0) {
      if (this.#headLength < 5) {
        const taken = rest.copy(this.#head, this.#headLength)
        this.#headLength += taken
        rest = rest.subarray(taken)
        if (this.#headLength < 5) return
      }
      const size = payloadSize(this.#head)
      const missing = size - this.#filled
      const part = rest.subarray(0, missing)
      rest = rest.subarray(part.length)
      if (part.length === size) {
        yield this.#finish(part)
        continue
      }
      this.#payload ??= Buffer.allocUnsafe(size)
      this.#filled += part.copy(this.#payload, this.#filled)
      if (this.#filled === size) yield this.#finish(this.#payload)
    }
  }

  #finish(payload: Buffer): Frame {
    this.#payload = undefined
    this.#filled = 0
    this.#headLength = 0
    return { kind: this.#head[0] as FrameKind, payload }
  }
}

function payloadSize(head: Buffer): number {
  const kind = head[0] ?? 255
  const size = head.readUInt32BE(1)
  if (!kinds.has(kind)) throw new Error(`unknown frame kind ${kind}`)
  if (size > maxFrameBytes) throw new Error(`a frame of ${size} bytes is over the limit of ${maxFrameBytes}`)
  return size
}
