/**
 * Buffers that were used before, by powers of two: fresh ones of a MiB cost more than reading a MiB does, since the
 * system has to find and clear every page of them.
 */
export class BufferPool {
  readonly #free = new Map<number, Buffer[]>()
  #held = 0
  readonly #maximum: number

  constructor(maximum = 16 * 1024 * 1024) {
    this.#maximum = maximum
  }

  /** Exactly `length` bytes, with whatever they held before. */
  take(length: number): Buffer {
    const size = sizeFor(length)
    const buffer = this.#free.get(size)?.pop()
    if (buffer === undefined) return Buffer.allocUnsafeSlow(size).subarray(0, length)
    this.#held -= size
    return buffer.subarray(0, length)
  }

  /** What `take` gave, when nobody reads it any more. */
  give(buffer: Buffer): void {
    const size = buffer.buffer.byteLength
    if (this.#held + size > this.#maximum) return
    const list = this.#free.get(size)
    const whole = Buffer.from(buffer.buffer, 0, size)
    if (list) list.push(whole)
    else this.#free.set(size, [whole])
    this.#held += size
  }
}

function sizeFor(length: number): number {
  return 2 ** Math.max(12, Math.ceil(Math.log2(length)))
}
