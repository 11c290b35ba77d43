import { Buffer } from 'node:buffer'
import { Fault } from '../../model/fault.ts'

/** Tags and numbers of the protocol (guest/PROTOCOL.md): the same as in guest/src/fields.h. */
export const frameType = {
  hello: 1,
  open: 2,
  data: 3,
  credit: 4,
  end: 5,
  reply: 6,
  exit: 7,
  error: 8,
  signal: 9,
  resize: 10,
  close: 11,
} as const
export type FrameType = (typeof frameType)[keyof typeof frameType]

const operations = [
  ...['exec', 'attach', 'processes', 'read', 'write', 'stat', 'list', 'makeDirectory', 'move', 'remove'],
  ...['watch', 'forward', 'identify', 'quiesce', 'freeze', 'thaw', 'shrink', 'metrics'],
] as const
export type Operation =
  | ('exec' | 'attach' | 'processes' | 'read' | 'write' | 'stat' | 'list' | 'makeDirectory' | 'move' | 'remove')
  | ('watch' | 'forward' | 'identify' | 'quiesce' | 'freeze' | 'thaw' | 'shrink' | 'metrics')
export const operationNumber = (operation: Operation): number => operations.indexOf(operation) + 1

const tags = {
  ...{ path: 1, to: 2, user: 3, cwd: 4, arg: 5, env: 6, columns: 7, rows: 8, detached: 9, pid: 10, offset: 11 },
  ...{ length: 12, mode: 13, recursive: 14, port: 15, sync: 16, size: 17, type: 18, uid: 19, gid: 20, time: 21 },
  ...{ target: 22, name: 23, entry: 24, running: 25, code: 26, generation: 27, entropy: 28, hostname: 29 },
  ...{ machineId: 30, mac: 31, address: 32, prefix: 33, gateway: 34, nameserver: 35, fresh: 36, version: 37 },
  ...{ token: 38, kind: 39, stream: 40, taken: 41, credit: 42, memoryTotal: 43, memoryUsed: 44, diskTotal: 45 },
  ...{ diskUsed: 46, cpus: 47, cpuMs: 48, processes: 49 },
}
export type FieldName = keyof typeof tags
type Value = string | number | boolean | Uint8Array | undefined

/** Absent values are left out; an array becomes the field several times. */
export function encodeFields(values: Partial<Record<FieldName, Value | readonly Value[]>>): Buffer {
  const parts: Buffer[] = []
  for (const [name, value] of Object.entries(values)) {
    for (const one of Array.isArray(value) ? (value as Value[]) : [value as Value]) {
      if (one === undefined) continue
      const bytes = valueBytes(one)
      const head = Buffer.alloc(5)
      head[0] = tags[name as FieldName]
      head.writeUInt32LE(bytes.length, 1)
      parts.push(head, bytes)
    }
  }
  return Buffer.concat(parts)
}

function valueBytes(value: Exclude<Value, undefined>): Buffer {
  if (typeof value === 'string') return Buffer.from(value)
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  const number = Math.trunc(Number(value))
  if (!(number >= 0 && number <= Number.MAX_SAFE_INTEGER)) {
    throw new Fault('invalid', `a number for the guest is at least 0; ${value} was given`)
  }
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(number))
  return bytes
}

/** What came, by name. Anything that is missing or odd reads as zero or an empty text: a guest is not trusted. */
export class Fields {
  readonly #bytes: Buffer

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  all(name: FieldName): Buffer[] {
    const found: Buffer[] = []
    for (const { tag, value } of eachField(this.#bytes)) if (tag === tags[name]) found.push(value)
    return found
  }

  has(name: FieldName): boolean {
    return this.all(name).length > 0
  }

  bytes(name: FieldName): Buffer {
    return this.all(name)[0] ?? Buffer.alloc(0)
  }

  text(name: FieldName): string {
    return this.bytes(name).toString()
  }

  texts(name: FieldName): string[] {
    return this.all(name).map(String)
  }

  number(name: FieldName): number {
    const bytes = this.bytes(name)
    return bytes.length === 8 ? Number(bytes.readBigUInt64LE()) : 0
  }
}

/** Whole fields from the front; what is left over is cut short or yet to come. */
export function* eachField(bytes: Buffer): Generator<{ tag: number; value: Buffer; end: number }> {
  for (let at = 0; bytes.length - at >= 5; ) {
    const end = at + 5 + bytes.readUInt32LE(at + 1)
    if (end > bytes.length) return
    yield { tag: bytes[at] ?? 0, value: bytes.subarray(at + 5, end), end }
    at = end
  }
}

export const entryTag = tags.entry
