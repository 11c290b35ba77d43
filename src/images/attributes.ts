import { Transform } from 'node:stream'
import type { Header } from 'tar-stream'

/** Extended attributes of a file, by name: values are bytes. */
export type Attributes = Readonly<Record<string, Buffer>>

const prefix = 'SCHILY.xattr.'
const block = 512
const maxRecords = 1024 * 1024

/**
 * Listens to a tar archive on its way, for the extended attributes in its PAX records, which the library that reads archives
 * takes for text and so spoils. `of` gives those of an entry, once.
 */
export function listenForAttributes(): { stream: Transform; of(header: Header): Attributes | undefined } {
  const found = new Map<number, Attributes>()
  let offset = 0
  let head = Buffer.alloc(0)
  let records: Buffer | undefined
  /** Bytes of contents that are not looked at. */
  let skip = 0
  let pending: { attributes: Attributes; size: number | undefined } | undefined
  const hear = (chunk: Buffer) => {
    let at = 0
    while (at < chunk.length) {
      const wanted = records ? skip : block - head.length
      if (skip > 0 && !records) {
        const passed = Math.min(skip, chunk.length - at)
        skip -= passed
        at += passed
        continue
      }
      const piece = chunk.subarray(at, at + wanted)
      at += piece.length
      if (records) {
        records = Buffer.concat([records, piece])
        skip -= piece.length
        if (skip > 0) continue
        pending = readRecords(records)
        records = undefined
        continue
      }
      head = Buffer.concat([head, piece])
      if (head.length < block) continue
      readHead(offset + at)
      head = Buffer.alloc(0)
    }
    offset += chunk.length
  }
  const readHead = (contents: number) => {
    const type = String.fromCharCode(head[156] ?? 0)
    const size = readSize(head.subarray(124, 136))
    skip = Math.ceil(size / block) * block
    if (type === 'x' && size > 0 && size <= maxRecords) records = Buffer.alloc(0)
    if ('xgLK'.includes(type)) return
    if (pending && Object.keys(pending.attributes).length > 0) found.set(contents, pending.attributes)
    if (pending?.size !== undefined) skip = Math.ceil(pending.size / block) * block
    // A directory has no contents, whatever is said of its size.
    if (type === '5') skip = 0
    pending = undefined
  }
  const stream = new Transform({
    transform(chunk: Buffer, _, done) {
      hear(chunk)
      done(null, chunk)
    },
  })
  return {
    stream,
    of(header) {
      // Where its contents begin; the library's types do not know of it.
      const { byteOffset } = header as Header & { byteOffset: number }
      const attributes = found.get(byteOffset)
      found.delete(byteOffset)
      return attributes
    },
  }
}

/** Attributes as what an archive has before the entry that they are of: a header, its records and what fills the last block. */
export function attributeEntry(attributes: Attributes): Buffer {
  const records = Buffer.concat(Object.entries(attributes).map(([name, value]) => record(`${prefix}${name}`, value)))
  const head = Buffer.alloc(block)
  head.write('PaxHeaders/attributes', 0, 'latin1')
  head.write(`0000644\0${'0000000\0'.repeat(2)}`, 100, 'latin1')
  head.write(`${records.length.toString(8).padStart(11, '0')}\0${'0'.repeat(11)}\0${' '.repeat(8)}x`, 124, 'latin1')
  head.write('ustar\x0000', 257, 'latin1')
  const sum = head.reduce((total, byte) => total + byte, 0)
  head.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return Buffer.concat([head, records, Buffer.alloc((block - (records.length % block)) % block)])
}

/** `LENGTH KEY=VALUE`, where the length counts itself. */
function record(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from('\n')])
  let length = rest.length
  while (rest.length + String(length).length !== length) length = rest.length + String(length).length
  return Buffer.concat([Buffer.from(String(length)), rest])
}

function readRecords(bytes: Buffer): { attributes: Attributes; size: number | undefined } {
  const attributes: Record<string, Buffer> = {}
  let size: number | undefined
  for (let at = 0; at < bytes.length; ) {
    const length = Number.parseInt(bytes.toString('latin1', at, at + 20), 10)
    const blank = bytes.indexOf(' ', at)
    const equals = bytes.indexOf('=', blank)
    if (!(length > 0) || blank < 0 || equals < 0 || equals > at + length) break
    const key = bytes.toString('utf8', blank + 1, equals)
    const value = bytes.subarray(equals + 1, at + length - 1)
    if (key === 'size') size = Number.parseInt(value.toString('latin1'), 10)
    const name = key.startsWith(prefix) ? key.slice(prefix.length) : ''
    if (isKept(name)) attributes[name] = Buffer.from(value)
    at += length
  }
  return { attributes, size: size !== undefined && size >= 0 ? size : undefined }
}

/** Those that mean something in another machine. */
function isKept(name: string): boolean {
  return name === 'security.capability' || /^user\.[\x21-\x7e]{1,200}$/.test(name)
}

/** Octal digits, or for what is large a number of bytes. */
function readSize(field: Buffer): number {
  if ((field[0] ?? 0) & 0x80) return field.readUIntBE(6, 6)
  return Number.parseInt(field.toString('latin1').replace(/[\0 ]+/g, ''), 8) || 0
}
