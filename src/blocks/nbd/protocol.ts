/**
 * The words of the network block device protocol that we speak: fixed newstyle handshake, simple replies.
 * https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
 */

export const initMagic = 0x4e42444d41474943n // "NBDMAGIC"
export const optionMagic = 0x49484156454f5054n // "IHAVEOPT"
export const optionReplyMagic = 0x0003e889045565a9n
export const requestMagic = 0x25609513
export const replyMagic = 0x67446698

/** Of the server in the handshake, and of the client in its answer. */
export const fixedNewstyle = 1
export const noZeroes = 2

export const options = { exportName: 1, abort: 2, list: 3, info: 6, go: 7 } as const
export const optionReplies = {
  ack: 1,
  server: 2,
  info: 3,
  unsupported: 0x80000001,
  invalid: 0x80000003,
  unknown: 0x80000006,
  tooBig: 0x80000009,
} as const
export const infos = { export: 0, blockSize: 3 } as const

/** Transmission flags: what an export can. More than one connection at once is not among it. */
export const exportFlags = {
  hasFlags: 1,
  readOnly: 2,
  sendFlush: 4,
  sendFua: 8,
  rotational: 16,
  sendTrim: 32,
  sendWriteZeroes: 64,
} as const

export const commands = { read: 0, write: 1, disconnect: 2, flush: 3, trim: 4, writeZeroes: 6 } as const
export const fua = 1

export const errors = {
  permission: 1,
  io: 5,
  memory: 12,
  invalid: 22,
  noSpace: 28,
  notSupported: 95,
  shutdown: 108,
} as const

export const requestBytes = 28
export const replyBytes = 16
/** Of a read or write, as we tell clients; they keep to it or are refused. */
export const maximumPayload = 32 * 1024 * 1024
/** An option longer than this is nobody's we serve. */
export const maximumOption = 64 * 1024
const maximumName = 4096

export interface Request {
  flags: number
  command: number
  handle: bigint
  offset: number
  length: number
}

/** `undefined` when the bytes are no request: nothing that follows can be trusted. */
export function decodeRequest(header: Buffer): Request | undefined {
  if (header.length !== requestBytes || header.readUInt32BE(0) !== requestMagic) return undefined
  const high = header.readUInt32BE(16)
  // An offset beyond what a number holds exactly is beyond every export too.
  const offset = high > 0x1fffff ? Number.MAX_SAFE_INTEGER : high * 2 ** 32 + header.readUInt32BE(20)
  return {
    flags: header.readUInt16BE(4),
    command: header.readUInt16BE(6),
    handle: header.readBigUInt64BE(8),
    offset,
    length: header.readUInt32BE(24),
  }
}

export function encodeRequest({ flags, command, handle, offset, length }: Request): Buffer {
  const header = Buffer.alloc(requestBytes)
  header.writeUInt32BE(requestMagic, 0)
  header.writeUInt16BE(flags, 4)
  header.writeUInt16BE(command, 6)
  header.writeBigUInt64BE(handle, 8)
  header.writeBigUInt64BE(BigInt(offset), 16)
  header.writeUInt32BE(length, 24)
  return header
}

export function encodeReply(into: Buffer, error: number, handle: bigint): Buffer {
  into.writeUInt32BE(replyMagic, 0)
  into.writeUInt32BE(error, 4)
  into.writeBigUInt64BE(handle, 8)
  return into
}

export function encodeGreeting(): Buffer {
  const greeting = Buffer.alloc(18)
  greeting.writeBigUInt64BE(initMagic, 0)
  greeting.writeBigUInt64BE(optionMagic, 8)
  greeting.writeUInt16BE(fixedNewstyle | noZeroes, 16)
  return greeting
}

export function encodeOptionReply(option: number, reply: number, payload: Buffer = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(20)
  header.writeBigUInt64BE(optionReplyMagic, 0)
  header.writeUInt32BE(option, 8)
  header.writeUInt32BE(reply, 12)
  header.writeUInt32BE(payload.length, 16)
  return Buffer.concat([header, payload])
}

export function encodeExport(size: number, flags: number): Buffer {
  const bytes = Buffer.alloc(10)
  bytes.writeBigUInt64BE(BigInt(size), 0)
  bytes.writeUInt16BE(flags, 8)
  return bytes
}

export function encodeExportInfo(size: number, flags: number): Buffer {
  return Buffer.concat([uint16(infos.export), encodeExport(size, flags)])
}

/** Every alignment is served; whole blocks are cheapest. */
export function encodeBlockSizeInfo(preferred: number): Buffer {
  const bytes = Buffer.alloc(14)
  bytes.writeUInt16BE(infos.blockSize, 0)
  bytes.writeUInt32BE(1, 2)
  bytes.writeUInt32BE(preferred, 6)
  bytes.writeUInt32BE(maximumPayload, 10)
  return bytes
}

/** The name that INFO and GO ask for; `undefined` when the option is malformed. */
export function decodeInfoOption(data: Buffer): { name: string } | undefined {
  if (data.length < 6) return undefined
  const nameLength = data.readUInt32BE(0)
  if (nameLength > maximumName || data.length < 6 + nameLength) return undefined
  const asked = data.readUInt16BE(4 + nameLength)
  if (data.length !== 6 + nameLength + 2 * asked) return undefined
  return { name: data.toString('utf8', 4, 4 + nameLength) }
}

function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16BE(value)
  return bytes
}
