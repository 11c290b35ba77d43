/**
 * What an NBD connection leads to. Everything but waiting is synchronous: bytes that lie on this machine are read faster
 * than a thread could be asked for them. Errors carry the system's `code` (ENOSPC, EIO …) and reach the guest as such.
 */
export interface NbdExport {
  readonly size: number
  readonly readOnly: boolean
  /** Bytes to wait for before the range can be read, or be written where blocks are written in part. */
  prepare(offset: number, length: number, why: 'read' | 'write'): Promise<void> | undefined
  /** Where the range lies, when it is in one file as it is; undefined for others. */
  placeOf?(offset: number, length: number): { fd: number; at: number } | undefined
  /** Fills `into` with the bytes from `offset` on. */
  read(offset: number, into: Buffer): void
  /** `pieces` follow one another. */
  write(offset: number, pieces: readonly Buffer[]): void
  /** From now on the range reads as zeros. */
  zero(offset: number, length: number): void
  /** Resolves when everything that was written before it would outlive the machine. */
  flush(): Promise<void>
}

export function errorWithCode(code: string, message: string): Error {
  return Object.assign(new Error(message), { code })
}
