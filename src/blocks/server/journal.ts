import { closeSync, fdatasync, fsyncSync, ftruncateSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs'
import { promisify } from 'node:util'

const datasync = promisify(fdatasync)

/** What a run of blocks became: written into the epoch's data, or zeros without data. */
export type BlockState = 'data' | 'zero'

export interface JournalRecord {
  first: number
  count: number
  state: BlockState
}

export interface JournalPoint {
  life: number
  length: number
}

/**
 * Which blocks an epoch has: one record of 16 bytes for each change, appended before the guest is told, so that nothing
 * it was told is lost when this process dies. A dead machine is different, since it writes pages in any order: records
 * count there only up to the last seal, which follows the data it speaks of onto the disk. The first record names the
 * boot it was written under, and so tells which of the two it was.
 *
 *     u32 magic+kind · u32 count · u64 first          kind: header, data, zero, seal
 */
const recordBytes = 16
const magic = 0x7e50_7400
const kinds = { header: 0, data: 1, zero: 2, seal: 3 } as const

export class Journal {
  readonly #path: string
  readonly #bootId: bigint
  #fd: number
  #length: number
  #sealed: number
  /** Grows when it is written anew. */
  #life = 0
  #sealing = false
  /** Files that are to be closed when nobody waits for them any more. */
  readonly #replaced: number[] = []
  readonly #record = Buffer.alloc(recordBytes)

  private constructor(path: string, bootId: bigint, fd: number, length: number) {
    this.#path = path
    this.#bootId = bootId
    this.#fd = fd
    this.#length = length
    this.#sealed = length
  }

  /** Opens it, and gives what it holds; a new one is made when there is none. */
  static open(path: string, bootId: bigint): { journal: Journal; records: JournalRecord[] } {
    const fd = openSync(path, 'a+', 0o600)
    const { records, length, isOurBoot } = parse(readFileSync(fd), bootId)
    if (isOurBoot) ftruncateSync(fd, length)
    const journal = new Journal(path, bootId, fd, length)
    try {
      if (!isOurBoot) journal.rewrite(records)
    } catch (error) {
      journal.close()
      throw error
    }
    return { journal, records }
  }

  /** What the journal of an epoch that is over holds. */
  static read(path: string, bootId: bigint): JournalRecord[] {
    return parse(readFileSync(path), bootId).records
  }

  get bytes(): number {
    return this.#length
  }

  append({ first, count, state }: JournalRecord): void {
    this.#append(kinds[state], count, first)
  }

  /** How far it has got, for `seal`. */
  get point(): JournalPoint {
    return { life: this.#life, length: this.#length }
  }

  /** What was appended before `point` outlives the machine from now on; call it when the data does. */
  async seal({ life, length }: JournalPoint): Promise<void> {
    if (life !== this.#life || this.#sealed >= length) return
    this.#append(kinds.seal, 0, length)
    this.#sealing = true
    try {
      await datasync(this.#fd)
      if (life === this.#life) this.#sealed = Math.max(this.#sealed, length + recordBytes)
    } finally {
      this.#sealing = false
      for (const fd of this.#replaced.splice(0)) closeSync(fd)
    }
  }

  /** Says the same in fewer words. What it speaks of is on the disk already. */
  rewrite(records: readonly JournalRecord[]): void {
    const bytes = Buffer.alloc((records.length + 2) * recordBytes)
    encode(bytes, 0, kinds.header, 0, this.#bootId)
    records.forEach(({ first, count, state }, index) => {
      encode(bytes, (index + 1) * recordBytes, kinds[state], count, BigInt(first))
    })
    encode(bytes, bytes.length - recordBytes, kinds.seal, 0, BigInt(bytes.length - recordBytes))
    const fresh = `${this.#path}.new`
    const fd = openSync(fresh, 'w+', 0o600)
    try {
      if (writeSync(fd, bytes) !== bytes.length) throw full()
      if (records.length > 0) fsyncSync(fd)
      renameSync(fresh, this.#path)
    } finally {
      closeSync(fd)
    }
    if (this.#sealing) this.#replaced.push(this.#fd)
    else closeSync(this.#fd)
    this.#fd = openSync(this.#path, 'a+')
    this.#life += 1
    this.#length = bytes.length
    this.#sealed = bytes.length
  }

  close(): void {
    closeSync(this.#fd)
  }

  #append(kind: number, count: number, first: number): void {
    encode(this.#record, 0, kind, count, BigInt(first))
    const written = writeSync(this.#fd, this.#record)
    if (written !== recordBytes) {
      ftruncateSync(this.#fd, this.#length)
      throw full()
    }
    this.#length += recordBytes
  }
}

function full(): Error {
  return Object.assign(new Error('the disk is full'), { code: 'ENOSPC' })
}

function encode(into: Buffer, at: number, kind: number, count: number, first: bigint): void {
  into.writeUInt32LE(magic | kind, at)
  into.writeUInt32LE(count, at + 4)
  into.writeBigUInt64LE(first, at + 8)
}

/** `length`: of what is whole and counts. */
function parse(bytes: Buffer, bootId: bigint): { records: JournalRecord[]; length: number; isOurBoot: boolean } {
  const isOurBoot = bytes.length >= recordBytes && bytes.readBigUInt64LE(8) === bootId
  let end = 0
  let sealed = 0
  for (; end + recordBytes <= bytes.length; end += recordBytes) {
    const word = bytes.readUInt32LE(end)
    if (word >>> 8 !== magic >>> 8) break
    if ((word & 0xff) === kinds.seal) sealed = Math.min(end, Number(bytes.readBigUInt64LE(end + 8)))
  }
  const records: JournalRecord[] = []
  const until = isOurBoot ? end : sealed
  for (let at = recordBytes; at < until; at += recordBytes) {
    const kind = bytes.readUInt32LE(at) & 0xff
    if (kind !== kinds.data && kind !== kinds.zero) continue
    const state = kind === kinds.data ? 'data' : 'zero'
    records.push({ first: Number(bytes.readBigUInt64LE(at + 8)), count: bytes.readUInt32LE(at + 4), state })
  }
  return { records, length: isOurBoot ? end : 0, isOurBoot }
}
