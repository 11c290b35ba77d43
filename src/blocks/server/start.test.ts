import assert from 'node:assert/strict'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { systemClock } from '../../kit/system-clock.ts'
import { temporaryDirectory, testBuildId } from '../testing.ts'
import type { BlockServer } from './protocol.ts'
import { blockServerSocket, startBlockServer } from './start.ts'
import { qemuIo, run, storeRequest, without } from './testing.ts'

const skip = without('qemu-io')
const signal = AbortSignal.timeout(120_000)

const start = (directory: string) => startBlockServer({ directory, clock: systemClock, signal })

async function stop(server: BlockServer): Promise<void> {
  const { pid } = await server.ask('list', {}, { signal })
  await server.ask('stop', {}, { signal })
  await server[Symbol.asyncDispose]()
  await gone(pid)
}

async function gone(pid: number): Promise<void> {
  while (isAlive(pid)) await sleep(5)
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

test('whoever comes second finds the server that runs, and only its owner may ask it', async () => {
  await using scratch = await temporaryDirectory()
  const directory = join(scratch.path, 'd')
  const first = await start(directory)
  const second = await start(directory)
  const pids = await Promise.all([first, second].map(async (one) => (await one.ask('list', {}, { signal })).pid))
  assert.equal(pids[0], pids[1])
  assert.notEqual(pids[0], process.pid)
  assert.equal(statSync(blockServerSocket(directory)).mode & 0o077, 0)
  assert.equal(statSync(directory).mode & 0o077, 0)
  await first[Symbol.asyncDispose]()
  await stop(second)
})

test('whoever comes while the server ends starts the next', async () => {
  await using scratch = await temporaryDirectory()
  const first = await start(scratch.path)
  const { pid } = await first.ask('list', {}, { signal })
  await first.ask('stop', {}, { signal })
  await first.gone
  const second = await start(scratch.path)
  assert.notEqual((await second.ask('list', {}, { signal })).pid, pid)
  await stop(second)
})

test('many who come at once start one server', async () => {
  await using scratch = await temporaryDirectory()
  const servers = await Promise.all([1, 2, 3].map(() => start(scratch.path)))
  const pids = await Promise.all(servers.map(async (one) => (await one.ask('list', {}, { signal })).pid))
  assert.equal(new Set(pids).size, 1)
  for (const server of servers.slice(1)) await server[Symbol.asyncDispose]()
  await stop(servers[0] as BlockServer)
})

test('a guest that writes does not see that the block server was killed', { skip }, async () => {
  await using scratch = await temporaryDirectory()
  let server = await start(scratch.path)
  const { socket } = await server.ask('openDisk', { name: 'a', from: { size: 64 << 20 } }, { signal })
  const written = 300
  const pattern = (index: number) => (index % 250) + 1
  const writes = Array.from({ length: written }, (_, index) => `write -P ${pattern(index)} ${index * 65536} 65536`)
  const image = `driver=nbd,server.type=unix,server.path=${socket},reconnect-delay=30`
  const guest = run('qemu-io', '--image-opts', image, ...[...writes, 'flush'].flatMap((line) => ['-c', line]))
  for (const share of [0.2, 0.6]) {
    const reached = async () => (await server.ask('list', {}, { signal })).disks[0]?.overlayBytes ?? 0
    while ((await reached()) < share * written * 65536) await sleep(1)
    const { pid } = await server.ask('list', {}, { signal })
    process.kill(pid, 'SIGKILL')
    await gone(pid)
    await server[Symbol.asyncDispose]()
    server = await start(scratch.path)
  }
  const told = await guest
  assert.equal(told.match(/wrote 65536/g)?.length, written)
  assert.doesNotMatch(told, /fail|error/i)
  const reads = Array.from({ length: written }, (_, index) => `read -P ${pattern(index)} ${index * 65536} 65536`)
  const output = await qemuIo(socket, ...reads)
  assert.equal(output.match(/read 65536/g)?.length, written)
  assert.doesNotMatch(output, /verification failed/)

  const { epoch } = await server.ask('cutDisk', { name: 'a' }, { signal })
  const build = testBuildId('b')
  await server.ask('store', storeRequest(build, { name: 'a', epoch }), { signal })
  await server.ask('closeDisk', { name: 'a' }, { signal })
  const again = await server.ask('openDisk', { name: 'b', from: { build } }, { signal })
  assert.match(await qemuIo(again.socket, `read -P ${pattern(9)} ${9 * 65536} 65536`), /read 65536/)
  await server.ask('closeDisk', { name: 'b' }, { signal })
  assert.deepEqual(readdirSync(join(scratch.path, 'disks')), [])
  await stop(server)
  assert.ok(!existsSync(blockServerSocket(scratch.path)), 'no socket is left')
})
