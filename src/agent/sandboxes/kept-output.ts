export type OutputKind = 'stdout' | 'stderr'

/** Bytes that are read at once at most. */
const pieceBytes = 65_536
const firstBytes = 16_384

/**
 * The last of what a command wrote, stdout and stderr in one order, in a ring that grows to `most` bytes. Offsets count all
 * bytes of both since the command began.
 */
export class KeptOutput {
  readonly most: number
  #ring = Buffer.alloc(0)
  /** For each byte of the ring: 1 for stderr. */
  #isError = new Uint8Array(0)
  #anyError = false
  #start: number
  #end: number

  constructor({ from, most }: { from: number; most: number }) {
    this.most = most
    this.#start = from
    this.#end = from
  }

  /** Of the first byte that is kept. */
  get start(): number {
    return this.#start
  }

  /** Of the next byte that comes. */
  get end(): number {
    return this.#end
  }

  /** At most as many bytes as are kept. */
  add(kind: OutputKind, bytes: Buffer): void {
    this.#grow(this.#end - this.#start + bytes.length)
    if (kind === 'stderr') this.#anyError = true
    for (let rest = bytes; rest.length > 0; ) {
      const to = this.#end % this.#ring.length
      const written = rest.copy(this.#ring, to)
      this.#isError.fill(kind === 'stderr' ? 1 : 0, to, to + written)
      this.#end += written
      rest = rest.subarray(written)
    }
    this.#start = Math.max(this.#start, this.#end - this.#ring.length)
  }

  /** What lies from an offset on, as far as it is of one kind; undefined at the end. */
  read(offset: number): { kind: OutputKind; bytes: Buffer } | undefined {
    if (offset >= this.#end) return undefined
    const at = offset % this.#ring.length
    const most = Math.min(this.#end - offset, this.#ring.length - at, pieceBytes)
    const isError = this.#isError[at]
    let length = this.#anyError ? 1 : most
    while (length < most && this.#isError[at + length] === isError) length += 1
    // What comes later is written over it.
    return { kind: isError ? 'stderr' : 'stdout', bytes: Buffer.from(this.#ring.subarray(at, at + length)) }
  }

  #grow(needed: number): void {
    const size = this.#ring.length
    if (needed <= size || size === this.most) return
    const kept = new KeptOutput({ from: this.#start, most: this.most })
    const next = Math.min(this.most, Math.max(needed, 2 * size, firstBytes))
    kept.#ring = Buffer.alloc(next)
    kept.#isError = new Uint8Array(next)
    for (let piece = this.read(kept.#end); piece; piece = this.read(kept.#end)) kept.add(piece.kind, piece.bytes)
    this.#ring = kept.#ring
    this.#isError = kept.#isError
  }
}
