import { errorWithCode, type NbdExport } from '../nbd/export.ts'
import { missingIn } from './local-image.ts'
import { type Base, readBase } from './overlay-view.ts'

/**
 * An image as it is, for whoever maps it. It does not say that it cannot be written, since programs that map memory open it
 * for writing whether they write or not; it refuses when they do.
 */
export class ImageExport implements NbdExport {
  readonly readOnly = false
  readonly size: number
  readonly #base: Base | undefined

  constructor(size: number, base: Base | undefined) {
    this.size = size
    this.#base = base
  }

  prepare(offset: number, length: number, why: 'read' | 'write'): Promise<void> | undefined {
    if (why === 'write' || this.#base === undefined) return undefined
    const missing = missingIn(this.#base, offset, length)
    return missing && this.#base.fetch(missing.first, missing.last)
  }

  read(offset: number, into: Buffer): void {
    readBase(this.#base, offset, into)
  }

  write(): void {
    throw errorWithCode('EPERM', 'the image cannot be changed')
  }

  zero(): void {
    throw errorWithCode('EPERM', 'the image cannot be changed')
  }

  async flush(): Promise<void> {}
}
