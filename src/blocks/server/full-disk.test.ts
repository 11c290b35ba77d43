import assert from 'node:assert/strict'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../kit/system-clock.ts'
import { openTestStore, temporaryDirectory, testBuildId } from '../testing.ts'
import { connectBlockServer } from './client.ts'
import { serveBlocks } from './server.ts'
import { qemuIo, run, storeRequest, without } from './testing.ts'

const skip = process.getuid?.() !== 0 ? 'needs root' : without('qemu-io', 'mount')

test('a guest on a full disk is told so, and what it had is still there', { skip }, async () => {
  await using scratch = await temporaryDirectory()
  const small = join(scratch.path, 'small')
  mkdirSync(small)
  await run('mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', small)
  await using _mount = { [Symbol.asyncDispose]: async () => void (await run('umount', small)) }
  await using content = await openTestStore(join(scratch.path, 'content'))
  const socket = join(scratch.path, 's')
  const signal = AbortSignal.timeout(30_000)
  await using _server = await serveBlocks({ directory: small, socket, content, clock: systemClock })
  await using client = await connectBlockServer({ socket, signal })
  const disk = await client.ask('openDisk', { name: 'a', from: { size: 64 << 20 } }, { signal })
  await qemuIo(disk.socket, 'write -P 1 0 2M', 'flush')
  const told = await qemuIo(disk.socket, 'write -P 2 4M 8M').catch((error) => `${error.stdout}${error.stderr}`)
  assert.match(told, /No space left on device/)
  assert.match(await qemuIo(disk.socket, 'read -P 1 0 2M', 'read -P 0 20M 1M'), /read 1048576/)
  await assert.rejects(
    client.ask(
      'captureMemory',
      { capture: 'c', pid: process.pid, path: process.execPath, build: null, size: 64 << 20 },
      { signal },
    ),
  )
  const { epoch } = await client.ask('cutDisk', { name: 'a' }, { signal })
  const build = testBuildId('b')
  await client.ask('store', storeRequest(build, { name: 'a', epoch }), { signal })
  await client.ask('closeDisk', { name: 'a' }, { signal })
})
