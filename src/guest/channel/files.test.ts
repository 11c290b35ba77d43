import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { type TestContext, test } from 'node:test'
import { Fault } from '../../model/fault.ts'
import type { FileEvent } from '../channel.ts'
import { lackingAgent, startAgent } from './testing.ts'

const skip = lackingAgent() ?? false
const signal = AbortSignal.timeout(120_000)

const open = async (t: TestContext) => {
  const agent = startAgent()
  const directory = await mkdtemp(join(tmpdir(), 'tutti-guest-files-'))
  t.after(async () => {
    await agent[Symbol.asyncDispose]()
    await rm(directory, { recursive: true, force: true })
  })
  const channel = await agent.connect()
  return { agent, channel, files: channel.files, directory }
}

const fault = (code: string, message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof Fault, String(error))
  assert.equal(error.code, code)
  assert.match(error.message, message)
  return true
}

async function bytesOf(stream: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks)
}

test('fifty MB go into a file and come out of it', { skip }, async (t) => {
  const { files, directory } = await open(t)
  const path = join(directory, 'deep/er/file')
  const piece = randomBytes(500_000)
  const writer = await files.write(path, { signal, mode: 0o640 })
  await pipeline(Readable.from(Array.from({ length: 100 }, () => piece)), writer)
  await writer.written
  const entry = await files.stat(path, { signal })
  assert.deepEqual([entry.name, entry.type, entry.size, entry.mode], ['file', 'file', 50_000_000, 0o640])
  const hash = createHash('sha256')
  for await (const chunk of await files.read(path, { signal })) hash.update(chunk)
  const wanted = createHash('sha256')
  for (let i = 0; i < 100; i += 1) wanted.update(piece)
  assert.equal(hash.digest('hex'), wanted.digest('hex'))
})

test('a part of a file is read by offset and length', { skip }, async (t) => {
  const { files, directory } = await open(t)
  await writeFile(join(directory, 'a'), '0123456789')
  const read = async (options: object) =>
    String(await bytesOf(await files.read(join(directory, 'a'), { signal, ...options })))
  assert.equal(await read({ offset: 3, length: 4 }), '3456')
  assert.equal(await read({ offset: 8 }), '89')
  assert.equal(await read({ offset: 80 }), '')
  assert.equal(await read({ length: 0 }), '')
})

test('a file appears whole or not at all', { skip }, async (t) => {
  const { files, directory } = await open(t)
  const path = join(directory, 'a')
  await writeFile(path, 'old', { mode: 0o711 })
  const half = await files.write(path, { signal })
  half.write('new')
  assert.equal(await readFile(path, 'utf8'), 'old')
  half.destroy()
  await assert.rejects(half.written)
  while ((await readdir(directory)).length > 1) await files.stat(directory, { signal })
  assert.equal(await readFile(path, 'utf8'), 'old')
  const whole = await files.write(path, { signal })
  whole.end('new')
  await whole.written
  assert.equal(await readFile(path, 'utf8'), 'new')
  assert.equal((await stat(path)).mode & 0o7777, 0o711, 'what is replaced keeps its mode')
})

test('a file may be given to a user', {
  skip: skip || (process.getuid?.() === 0 ? false : 'needs root'),
}, async (t) => {
  const { files, directory } = await open(t)
  const writer = await files.write(join(directory, 'new/file'), { signal, user: 'nobody' })
  writer.end('x')
  await writer.written
  assert.equal((await stat(join(directory, 'new/file'))).uid, 65_534)
  assert.equal((await stat(join(directory, 'new'))).uid, 65_534)
  await files.makeDirectory(join(directory, 'b/c'), { signal, user: 'nobody' })
  assert.equal((await files.stat(join(directory, 'b/c'), { signal })).uid, 65_534)
})

test('directories are listed, moved and removed with all that is in them', { skip }, async (t) => {
  const { files, directory } = await open(t)
  await files.makeDirectory(join(directory, 'a/b/c'), { signal })
  await files.makeDirectory(join(directory, 'a/b/c'), { signal })
  await writeFile(join(directory, 'a/b/c/file'), 'x')
  await symlink('b/c/file', join(directory, 'a/link'))
  const listed = await files.list(join(directory, 'a'), { signal })
  assert.deepEqual(
    listed.map(({ name, type, target }) => ({ name, type, target })).sort((x, y) => x.name.localeCompare(y.name)),
    [
      { name: 'b', type: 'directory', target: undefined },
      { name: 'link', type: 'link', target: 'b/c/file' },
    ],
  )
  await files.move(join(directory, 'a/b'), join(directory, 'moved'), { signal })
  assert.equal(await readFile(join(directory, 'moved/c/file'), 'utf8'), 'x')
  await files.remove(join(directory, 'moved'), { signal })
  await files.remove(join(directory, 'a/link'), { signal })
  assert.deepEqual(await readdir(directory), ['a'])
})

test('a directory with three thousand entries is listed whole', { skip }, async (t) => {
  const { files, directory } = await open(t)
  await mkdir(join(directory, 'many'))
  for (let i = 0; i < 3000; i += 1) await writeFile(join(directory, 'many', `file-${i}`), '')
  assert.equal((await files.list(join(directory, 'many'), { signal })).length, 3000)
})

test('what cannot be done to a file is said in a sentence', { skip }, async (t) => {
  const { files, directory } = await open(t)
  await mkdir(join(directory, 'full/x'), { recursive: true })
  await writeFile(join(directory, 'file'), '')
  const at = (name: string) => join(directory, name)
  await assert.rejects(files.read(at('none'), { signal }), fault('not_found', /^cannot read ".*none": no such file/))
  await assert.rejects(files.read(directory, { signal }), fault('conflict', /it is a directory$/))
  await assert.rejects(files.read('relative', { signal }), fault('invalid', /must be absolute/))
  await assert.rejects(files.read('/dev/zero', { signal }), fault('conflict', /not a regular file/))
  await assert.rejects(files.write(at('full'), { signal }), fault('conflict', /it is a directory$/))
  await assert.rejects(files.write(at('file/below'), { signal }), fault('conflict', /not a directory/))
  await assert.rejects(files.write(at('new'), { signal, user: 'who' }), fault('invalid', /no user "who"/))
  await assert.rejects(files.list(at('none'), { signal }), fault('not_found', /cannot list/))
  await assert.rejects(files.move(at('none'), at('b'), { signal }), fault('not_found', /cannot move/))
  await assert.rejects(files.move(at('file'), at('full'), { signal }), fault('conflict', /cannot move/))
  await assert.rejects(files.remove(at('none'), { signal }), fault('not_found', /cannot remove/))
  await assert.rejects(files.remove('/', { signal }), fault('invalid', /root directory/))
  await assert.rejects(files.watch(at('none'), { signal, recursive: false }), fault('not_found', /cannot watch/))
  await assert.rejects(files.read(`/${'x'.repeat(5000)}`, { signal }), fault('invalid', /longer than/))
})

test('changes are told as they happen, also below', { skip }, async (t) => {
  const { files, directory } = await open(t)
  const stop = new AbortController()
  const seen: FileEvent[] = []
  const events = await files.watch(directory, { signal: stop.signal, recursive: true })
  const watching = (async () => {
    for await (const event of events) seen.push({ ...event, path: event.path.slice(directory.length + 1) })
  })()
  const has = async (kind: string, path: string) => {
    while (!seen.some((event) => event.kind === kind && event.path === path)) await files.stat('/', { signal })
  }
  await mkdir(join(directory, 'a/b'), { recursive: true })
  await has('created', 'a')
  await has('created', 'a/b')
  await writeFile(join(directory, 'a/b/c'), 'x')
  await has('created', 'a/b/c')
  await has('changed', 'a/b/c')
  await files.move(join(directory, 'a/b'), join(directory, 'z'), { signal })
  await has('removed', 'a/b')
  await has('moved', 'z')
  await writeFile(join(directory, 'z/d'), '')
  await has('created', 'z/d')
  const own = await files.write(join(directory, 'own'), { signal })
  own.end('x')
  await own.written
  await has('created', 'own')
  await files.remove(join(directory, 'z'), { signal })
  await has('removed', 'z/d')
  await has('removed', 'z')
  assert.ok(!seen.some(({ path }) => path.includes('.tutti-')), 'temporary names are not told')
  stop.abort()
  await assert.rejects(watching, { name: 'AbortError' })
})

test('a port of the guest is reached both ways, with half-closing', { skip }, async (t) => {
  const { channel } = await open(t)
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    const hash = createHash('sha256')
    let length = 0
    socket.on('data', (chunk) => {
      hash.update(chunk)
      length += chunk.length
    })
    socket.on('end', () =>
      socket.end(Buffer.concat([Buffer.alloc(3_000_000, 7), Buffer.from(`${length} ${hash.digest('hex')}`)])),
    )
  })
  t.after(() => server.close())
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const bytes = randomBytes(3_000_000)
  const socket = await channel.forward(port, { signal })
  socket.end(bytes)
  const answer = await bytesOf(socket)
  assert.equal(answer.subarray(3_000_000).toString(), `3000000 ${createHash('sha256').update(bytes).digest('hex')}`)
  await assert.rejects(
    channel.forward(1, { signal }),
    fault('not_found', /^nobody listens on port 1 of the guest's loopback$/),
  )
  await assert.rejects(channel.forward(70_000, { signal }), fault('invalid', /1 to 65535/))
})

test('a port that listens on IPv6 alone is reached too', { skip }, async (t) => {
  const { channel } = await open(t)
  const server = createServer((socket) => socket.end('six'))
  t.after(() => server.close())
  server.listen({ port: 0, host: '::1', ipv6Only: true })
  const listening = await Promise.race([once(server, 'listening'), once(server, 'error').then(() => undefined)])
  if (!listening) return t.skip('needs IPv6')
  const { port } = server.address() as { port: number }
  assert.equal(String(await bytesOf(await channel.forward(port, { signal }))), 'six')
})

test('a reader that goes away stops the sending', { skip }, async (t) => {
  const { files, channel } = await open(t)
  for (let round = 0; round < 20; round += 1) {
    const reader = await files.read('/proc/self/exe', { signal })
    await once(reader, 'data')
    reader.destroy()
  }
  const before = (await readdir(`/proc/${(await run(channel)).trim()}/fd`)).length
  assert.ok(before < 20, `${before} files are open in the agent`)
})

async function run(channel: { start: Awaited<ReturnType<typeof open>>['channel']['start'] }): Promise<string> {
  const execution = await channel.start({ command: ['sh', '-c', 'echo $PPID'], env: {} }, { signal })
  execution.stdin.end()
  return String(await bytesOf(execution.stdout))
}
