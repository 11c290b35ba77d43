/**
 * Output of containers comes as frames: a byte that tells the stream, three of padding, the length in four bytes, then
 * the text. Cuts them from whatever pieces arrive.
 */
export class FrameCutter {
  #waiting: Buffer[] = []
  #size = 0
  /** Bytes that must be there before it is worth looking. */
  #wanted = 8

  cut(chunk: Buffer): EngineFrame[] {
    this.#waiting.push(chunk)
    this.#size += chunk.length
    if (this.#size < this.#wanted) return []
    let bytes = Buffer.concat(this.#waiting)
    const frames: EngineFrame[] = []
    this.#wanted = 8
    while (bytes.length >= 8) {
      const end = 8 + bytes.readUInt32BE(4)
      if (bytes.length < end) {
        this.#wanted = end
        break
      }
      frames.push({ stream: bytes[0] === 2 ? 'stderr' : 'stdout', payload: bytes.subarray(8, end) })
      bytes = bytes.subarray(end)
    }
    this.#waiting = [bytes]
    this.#size = bytes.length
    return frames
  }
}

export interface EngineFrame {
  stream: 'stdout' | 'stderr'
  payload: Buffer
}
