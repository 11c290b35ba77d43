import assert from 'node:assert/strict'
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { freeHugePages, setAsideHugePages } from '../../../test/fixtures/huge-pages.ts'
import { kernelRoots, lackingForMachines, Machines, say, until } from '../../../test/fixtures/machines.ts'
import { compileMapper, startMapper } from '../../../test/fixtures/mapper.ts'
import { silentLog } from '../../kit/log.ts'
import { systemClock } from '../../kit/system-clock.ts'
import type { BuildId } from '../../model/ids.ts'
import { createQemu } from '../../vmm/qemu/qemu.ts'
import { hugePageBytes } from '../memory/libc.ts'
import { readImage, temporaryDirectory, testBuildId } from '../testing.ts'
import { openTestServer, storeRequest, type TestServer, without } from './testing.ts'

const size = 8 << 20
const pageBytes = 4096
/** Enough for the machine of 96 MiB, and too few for what other tests build meanwhile. */
const setAside = 52
const template = testBuildId('template')
const other = testBuildId('other')

const missing = process.platform === 'linux' ? without('cc') : 'needs Linux'
const pages = missing ? undefined : setAsideHugePages(setAside)
const lacking = missing || pages?.lacking || undefined
const noMachine = lacking ?? (await lackingForMachines())

describe(`memory in huge pages${lacking ? `: skipped, ${lacking}` : ''}`, lacking ? { skip: lacking } : {}, () => {
  let scratch: Awaited<ReturnType<typeof temporaryDirectory>>
  let binary: string
  before(async () => {
    scratch = await temporaryDirectory()
    binary = compileMapper(scratch.path, size)
  })
  after(async () => {
    await scratch?.[Symbol.asyncDispose]()
    pages?.[Symbol.dispose]()
  })

  test('all pages of a machine that boots are promised to it before it has them, and come back when it goes', async () => {
    await using server = await openTestServer()
    const free = freeHugePages()
    assert.ok(free !== undefined)
    const { path } = await server.ask('newMemory', { name: 'boot', size, mayBeHuge: true })
    assert.equal(freeHugePages(), free - size / hugePageBytes)
    assert.throws(() => truncateSync(path, 2 * size), { code: 'EPERM' }, 'nor can it be made to take more')
    assert.deepEqual((await server.ask('list', {})).newMemories, [{ name: 'boot', size, isHuge: true }])
    await server.ask('closeMemory', { name: 'boot' })
    assert.equal(freeHugePages(), free)
  })

  test('where too few are free it has ordinary pages, and takes none of the few', async () => {
    await using server = await openTestServer()
    const free = freeHugePages() ?? 0
    const tooLarge = (free + 1) * hugePageBytes
    const { path } = await server.ask('newMemory', { name: 'boot', size: tooLarge, mayBeHuge: true })
    assert.equal(freeHugePages(), free)
    assert.deepEqual((await server.ask('list', {})).newMemories, [{ name: 'boot', size: tooLarge, isHuge: false }])
    writeFileSync(path, 'ordinary', { flag: 'r+' })
  })

  test('it has ordinary pages where nobody asked, or where its size is no number of huge ones', async () => {
    await using server = await openTestServer()
    await server.ask('newMemory', { name: 'unasked', size })
    await server.ask('newMemory', { name: 'uneven', size: size + 2 ** 20, mayBeHuge: true })
    assert.deepEqual(
      (await server.ask('list', {})).newMemories.map(({ isHuge }) => isHuge),
      [false, false],
    )
  })

  test('a capture of them has the pages that are not zeros, and is stored as that of ordinary ones', async () => {
    await using server = await openTestServer()
    const maps: unknown[] = []
    for (const [build, mayBeHuge] of [
      [template, true],
      [other, false],
    ] as const) {
      const { path } = await server.ask('newMemory', { name: 'boot', size, mayBeHuge })
      assert.equal((await server.ask('list', {})).newMemories[0]?.isHuge, mayBeHuge)
      await using machine = await startMapper(binary, path, 'shared')
      for (const page of [0, 1, 5, 700, 701, 2047]) await machine.write(page, (page % 200) + 1)
      const { bytes } = await captured(server, machine.pid, { path, build, size })
      assert.equal(bytes, 6 * pageBytes)
      await server.ask('closeMemory', { name: 'boot' })
      maps.push((await server.content.manifest(build)).snapshot?.memory)
    }
    assert.deepEqual(maps[0], maps[1])
  })

  test('a machine can be captured when the block server that made its memory is no more', async () => {
    await using server = await openTestServer()
    const { path } = await server.ask('newMemory', { name: 'boot', size, mayBeHuge: true })
    await using machine = await startMapper(binary, path, 'shared')
    await machine.write(9, 42)
    await server.restart()
    const again = await server.ask('newMemory', { name: 'boot', size })
    const { bytes } = await captured(server, machine.pid, { path: again.path, build: template, size })
    assert.equal(bytes, pageBytes)
    assert.equal((await readMemory(server, template))[9 * pageBytes], 42)
  })

  test(`a machine boots in them, becomes a template, and is cloned in ordinary ones${noMachine ? `: skipped, ${noMachine}` : ''}`, {
    skip: noMachine ?? false,
  }, async () => {
    const free = freeHugePages()
    await using server = await openTestServer()
    await using machines = await Machines.open({
      makeVmm: (directory) => createQemu({ clock: systemClock, log: silentLog, directory, kernelRoots }),
    })
    const bytes = machines.shape.memoryMiB * 2 ** 20
    const { path } = await server.ask('newMemory', { name: 'boot', size: bytes, mayBeHuge: true })
    const vm = await machines.boot({ memory: path })
    assert.equal(await say(vm, 'set of the template'), 'ok')
    assert.deepEqual(pageSizes(vm.pid), ['2048 kB'])
    await vm.stop()
    const devices = join(scratch.path, 'devices-of-machine')
    await vm.saveDevices(devices)
    const whole = readFileSync(path)
    const { bytes: copied } = await captured(server, vm.pid, { path, build: template, size: bytes }, devices)
    assert.equal(copied, notZero(whole) * pageBytes)
    await vm.kill()
    await server.ask('closeMemory', { name: 'boot' })
    await until(async () => freeHugePages() === free, 'all pages are back')

    assert.ok((await readMemory(server, template)).equals(whole))
    const image = await server.ask('openMemory', { build: template, holder: 'clone' })
    const clone = await machines.start({ memory: image.path, devices })
    assert.equal(await say(clone, 'get'), 'of the template')
    assert.deepEqual(pageSizes(clone.pid), ['4 kB'])
    await clone.kill()
  })

  async function captured(
    server: TestServer,
    pid: number,
    { path, build, size }: { path: string; build: BuildId; size: number },
    given?: string,
  ): Promise<{ bytes: number }> {
    const devices = given ?? join(scratch.path, 'devices')
    if (given === undefined) writeFileSync(devices, 'state of devices')
    const capture = `c-${build}`
    const answer = await server.ask('captureMemory', { capture, pid, path, build: null, size })
    const disk = `d-${build}`
    await server.ask('openDisk', { name: disk, from: { size: 1 << 20 } })
    const { epoch } = await server.ask('cutDisk', { name: disk })
    const snapshot = { capture, devices, compat: 'c', guestAgent: '1', channelToken: 't' }
    await server.ask('store', { ...storeRequest(build, { name: disk, epoch }, null), snapshot })
    return answer
  }
})

async function readMemory({ content }: TestServer, build: BuildId): Promise<Buffer> {
  const { snapshot, packs } = await content.manifest(build)
  assert.ok(snapshot)
  return readImage(await content.open(snapshot.memory, { packs }))
}

/** In which the process has its machine's memory. */
function pageSizes(pid: number): string[] {
  const mappings = readFileSync(`/proc/${pid}/smaps`, 'utf8').split(/^(?=[0-9a-f]+-)/m)
  const own = mappings.filter((mapping) => mapping.includes('/memfd:tutti-'))
  return [...new Set(own.map((mapping) => /^KernelPageSize:\s+(.+)$/m.exec(mapping)?.[1] ?? ''))]
}

function notZero(memory: Buffer): number {
  const zeros = Buffer.alloc(pageBytes)
  let count = 0
  for (let at = 0; at < memory.length; at += pageBytes)
    if (memory.compare(zeros, 0, pageBytes, at, at + pageBytes) !== 0) count += 1
  return count
}
