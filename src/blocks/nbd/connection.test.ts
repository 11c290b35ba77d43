import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { createConnection, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { temporaryDirectory } from '../testing.ts'
import { NbdConnection } from './connection.ts'
import { errorWithCode, type NbdExport } from './export.ts'
import {
  commands,
  encodeRequest,
  errors,
  fixedNewstyle,
  noZeroes,
  optionMagic,
  options,
  replyMagic,
} from './protocol.ts'

const size = 1 << 20

/** Bytes in memory; fails as it is told. */
function memoryExport(failing: { code?: string } = {}): NbdExport & { bytes: Buffer } {
  const bytes = Buffer.alloc(size)
  const fail = () => {
    if (failing.code) throw errorWithCode(failing.code, 'as told')
  }
  const inside = (offset: number, length: number) => assert.ok(offset >= 0 && length >= 0 && offset + length <= size)
  return {
    bytes,
    size,
    readOnly: false,
    prepare: (offset, length) => {
      inside(offset, length)
      return undefined
    },
    read(offset, into) {
      inside(offset, into.length)
      fail()
      bytes.copy(into, 0, offset)
    },
    write(offset, pieces) {
      fail()
      const all = Buffer.concat(pieces)
      inside(offset, all.length)
      bytes.set(all, offset)
    },
    zero(offset, length) {
      inside(offset, length)
      bytes.fill(0, offset, offset + length)
    },
    async flush() {
      fail()
    },
  }
}

async function serve(target: NbdExport): Promise<{ connect(): Promise<Socket> } & AsyncDisposable> {
  const scratch = await temporaryDirectory()
  const path = join(scratch.path, 's')
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    new NbdConnection(socket, target)
  }).listen(path)
  await once(server, 'listening')
  return {
    async connect() {
      const socket = createConnection(path)
      sockets.add(socket)
      await once(socket, 'connect')
      return socket
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await scratch[Symbol.asyncDispose]()
    },
  }
}

function option(number: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(16)
  header.writeBigUInt64BE(optionMagic)
  header.writeUInt32BE(number, 8)
  header.writeUInt32BE(data.length, 12)
  return Buffer.concat([header, data])
}

const clientFlags = Buffer.from([0, 0, 0, fixedNewstyle | noZeroes])
const greetingBytes = 18 + 10

test('nothing that a client sends brings the server down, or reaches beyond the disk', async () => {
  await using server = await serve(memoryExport())
  const request = fc
    .record({
      flags: fc.nat(3),
      command: fc.oneof(fc.nat(8), fc.nat(65535)),
      handle: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      offset: fc.oneof(fc.nat(size + 10), fc.maxSafeNat()),
      length: fc.oneof(fc.nat(4096), fc.nat(size), fc.nat(2 ** 32 - 1)),
    })
    .map((fields) => encodeRequest(fields))
  const piece = fc.oneof(
    request,
    fc.uint8Array({ maxLength: 100 }).map((bytes) => Buffer.from(bytes)),
    fc.tuple(fc.nat(12), fc.uint8Array({ maxLength: 40 })).map(([number, data]) => option(number, Buffer.from(data))),
  )
  const opening = fc.constantFrom(
    [],
    [clientFlags],
    [clientFlags, option(options.exportName)],
    [clientFlags, option(options.list), option(options.go, Buffer.alloc(6))],
  )
  await fc.assert(
    fc.asyncProperty(opening, fc.array(piece, { maxLength: 10 }), async (first, rest) => {
      const socket = await server.connect()
      socket.on('error', () => {})
      socket.resume()
      const closed = once(socket, 'close')
      socket.end(Buffer.concat([...first, ...rest]))
      await closed
    }),
    { numRuns: 300 },
  )
  const socket = await server.connect()
  socket.write(Buffer.concat([clientFlags, option(options.exportName)]))
  assert.equal((await readBytes(socket, greetingBytes)).readBigUInt64BE(18), BigInt(size))
})

test('a failing disk and a full one are told apart', async () => {
  for (const [code, expected] of [
    ['ENOSPC', errors.noSpace],
    ['EIO', errors.io],
    ['EPERM', errors.permission],
    ['EWEIRD', errors.io],
  ] as const) {
    await using server = await serve(memoryExport({ code }))
    const socket = await server.connect()
    const write = encodeRequest({ flags: 0, command: commands.write, handle: 7n, offset: 0, length: 512 })
    socket.write(Buffer.concat([clientFlags, option(options.exportName), write, Buffer.alloc(512)]))
    const reply = (await readBytes(socket, greetingBytes + 16)).subarray(greetingBytes)
    assert.equal(reply.readUInt32BE(0), replyMagic)
    assert.equal(reply.readUInt32BE(4), expected)
    assert.equal(reply.readBigUInt64BE(8), 7n)
  }
})

test('long reads of a file are whole for a client that takes its time, in the order in which they were asked for', async () => {
  await using scratch = await temporaryDirectory()
  const bytes = randomBytes(size)
  writeFileSync(join(scratch.path, 'file'), bytes)
  await using file = await open(join(scratch.path, 'file'))
  const target = memoryExport()
  bytes.copy(target.bytes)
  target.placeOf = (offset) => ({ fd: file.fd, at: offset })
  await using server = await serve(target)
  const socket = await server.connect()
  const asked = Array.from({ length: 40 }, (_, index) => {
    const length = index % 3 === 0 ? 4096 : 300_000 + index
    return { flags: 0, command: commands.read, handle: BigInt(index), offset: index * 10_000, length }
  })
  socket.write(Buffer.concat([clientFlags, option(options.exportName), ...asked.map(encodeRequest)]))
  await sleep(50)
  const total = asked.reduce((sum, { length }) => sum + 16 + length, greetingBytes)
  const all = await readBytes(socket, total)
  let at = greetingBytes
  for (const { handle, offset, length } of asked) {
    assert.equal(all.readBigUInt64BE(at + 8), handle)
    assert.ok(all.subarray(at + 16, at + 16 + length).equals(bytes.subarray(offset, offset + length)))
    at += 16 + length
  }
})

test('a file that cannot be read in the middle of an answer ends the connection, and is an error from then on', async () => {
  const target = memoryExport()
  const failing = { ...target, placeOf: () => ({ fd: -1, at: 0 }) }
  failing.read = (offset, into) => {
    if (offset + into.length > 100_000) throw errorWithCode('EIO', 'as told')
    target.read(offset, into)
  }
  await using server = await serve(failing)
  const ask = Buffer.concat([
    clientFlags,
    option(options.exportName),
    encodeRequest({ flags: 0, command: commands.read, handle: 7n, offset: 0, length: 200_000 }),
  ])
  const first = await server.connect()
  first.write(ask)
  const broken = await readBytes(first, Number.POSITIVE_INFINITY)
  assert.ok(broken.length < greetingBytes + 16 + 200_000)
  const second = await server.connect()
  second.write(ask)
  const reply = (await readBytes(second, greetingBytes + 16)).subarray(greetingBytes)
  assert.equal(reply.readUInt32BE(4), errors.io)
})

async function readBytes(socket: Socket, count: number): Promise<Buffer> {
  const pieces: Buffer[] = []
  let length = 0
  for await (const piece of socket) {
    pieces.push(piece)
    length += piece.length
    if (length >= count) break
  }
  return Buffer.concat(pieces)
}
