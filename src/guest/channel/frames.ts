import { Buffer } from 'node:buffer'
import type { FrameType } from './fields.ts'

/** Frames of the guest's channel, as guest/PROTOCOL.md has them. */
export interface Frame {
  stream: number
  type: FrameType
  flags: number
  payload: Buffer
}

export const maxPayload = 65_536
const headLength = 12
/** The last byte of every frame; no token contains it, so that a token never completes a frame that was cut off. */
const lastByte = 0xa5
const last = Buffer.from([lastByte])

/** In pieces, so that a large payload is not copied. */
export function encodeFrame({ stream, type, flags, payload }: Frame): Buffer[] {
  const head = Buffer.alloc(headLength)
  head.writeUInt32LE(payload.length, 0)
  head.writeUInt32LE(stream, 4)
  head[8] = type
  head[9] = flags
  return payload.length < 1024 ? [Buffer.concat([head, payload, last])] : [head, payload, last]
}

/** Cuts a byte stream into frames once `nonce` has come by; throws at a frame that is wrong. */
export class FrameDecoder {
  #nonce: Buffer | undefined
  #rest: Buffer[] = []
  #length = 0
  /** So many bytes are needed before there is anything to do. */
  #wanted = 16

  /** Begins anew: everything is thrown away until `nonce`. */
  expect(nonce: Buffer): void {
    this.#nonce = nonce
    this.#wanted = 16
  }

  *push(chunk: Buffer): Generator<Frame> {
    this.#rest.push(chunk)
    this.#length += chunk.length
    if (this.#length < this.#wanted) return
    let bytes = this.#rest.length === 1 ? chunk : Buffer.concat(this.#rest)
    if (this.#nonce) {
      const at = bytes.indexOf(this.#nonce)
      bytes = at < 0 ? bytes.subarray(-15) : bytes.subarray(at + 16)
      if (at < 0) return this.#keep(bytes, 16)
      this.#nonce = undefined
    }
    for (;;) {
      if (bytes.length < headLength) return this.#keep(bytes, headLength)
      const size = bytes.readUInt32LE(0)
      if (size > maxPayload) throw new Error(`a frame of ${size} bytes is over the limit of ${maxPayload}`)
      const end = headLength + size + 1
      if (bytes.length < end) return this.#keep(bytes, end)
      if (bytes[end - 1] !== lastByte) throw new Error('a frame does not end as frames do')
      const [type, flags] = [bytes[8] as FrameType, bytes[9] ?? 0]
      yield { stream: bytes.readUInt32LE(4), type, flags, payload: bytes.subarray(headLength, end - 1) }
      bytes = bytes.subarray(end)
      // Whoever took the frame may have asked to begin anew.
      if (this.#nonce) return this.#keep(bytes, 16)
    }
  }

  #keep(bytes: Buffer, wanted: number): void {
    this.#rest = bytes.length > 0 ? [bytes] : []
    this.#length = bytes.length
    this.#wanted = wanted
  }
}
