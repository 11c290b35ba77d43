/**
 * Received bytes that wait to be understood: a list of pieces as they came, so that nothing is copied until somebody wants
 * it in one piece.
 */
export class ByteQueue {
  #pieces: Buffer[] = []
  #first = 0
  #length = 0

  get length(): number {
    return this.#length
  }

  push(piece: Buffer): void {
    if (piece.length === 0) return
    this.#pieces.push(piece)
    this.#length += piece.length
  }

  /** The next `count` bytes as one buffer, which is a view where they came together. The caller knows that they are there. */
  take(count: number): Buffer {
    const pieces = this.takePieces(count)
    return pieces.length === 1 && pieces[0] ? pieces[0] : Buffer.concat(pieces, count)
  }

  /** The next `count` bytes as they came. */
  takePieces(count: number): Buffer[] {
    if (count > this.#length) throw new RangeError('more bytes are wanted than have come')
    const taken: Buffer[] = []
    let missing = count
    while (missing > 0) {
      const piece = this.#pieces[this.#first] as Buffer
      if (piece.length <= missing) {
        taken.push(piece)
        this.#first += 1
        missing -= piece.length
      } else {
        taken.push(piece.subarray(0, missing))
        this.#pieces[this.#first] = piece.subarray(missing)
        missing = 0
      }
    }
    if (this.#first > 64 || this.#first === this.#pieces.length) {
      this.#pieces.splice(0, this.#first)
      this.#first = 0
    }
    this.#length -= count
    return taken
  }
}
