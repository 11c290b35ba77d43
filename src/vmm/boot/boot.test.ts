import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, before, test } from 'node:test'
import { gunzipSync, gzipSync, zstdCompressSync } from 'node:zlib'
import fc from 'fast-check'
import { bootFiles } from './boot-files.ts'
import { characterDevice, cpio, directory as directoryEntry, file } from './cpio.ts'
import { findKernel } from './kernel.ts'
import { lz4Legacy } from './lz4.ts'
import { collectModules } from './modules.ts'
import { vmlinux } from './vmlinux.ts'

let directory: string
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'tutti-boot-'))
})
after(() => rm(directory, { recursive: true, force: true }))

test('an archive says of each entry what the kernel must know', () => {
  const archive = cpio([
    directoryEntry('dev'),
    characterDevice('dev/null', 1, 3),
    file('init', Buffer.from('abcde'), 0o755),
  ])
  assert.equal(archive.length % 4, 0)
  assert.deepEqual(entriesOf(archive), [
    { name: 'dev', mode: 0o040755, major: 0, minor: 0, data: '' },
    { name: 'dev/null', mode: 0o020600, major: 1, minor: 3, data: '' },
    { name: 'init', mode: 0o100755, major: 0, minor: 0, data: 'abcde' },
    { name: 'TRAILER!!!', mode: 0, major: 0, minor: 0, data: '' },
  ])
})

test('modules come after what they depend on, each once, unpacked', async () => {
  const modules = join(directory, 'modules')
  await module(modules, 'drivers/virtio/virtio.ko', '')
  await module(modules, 'drivers/virtio/virtio_ring.ko', 'virtio')
  await module(modules, 'drivers/block/virtio_blk.ko.zst', 'virtio,virtio_ring')
  await module(modules, 'drivers/char/virtio-rng.ko', 'virtio-ring,virtio')
  const found = await collectModules(modules, ['virtio_blk', 'virtio_rng', 'built_in'])
  assert.deepEqual(
    found.map(({ name }) => name),
    ['virtio', 'virtio_ring', 'virtio_blk', 'virtio_rng'],
  )
  assert.match(found[2]?.data.toString() ?? '', /depends=virtio,virtio_ring/)
})

test('the newest cloud kernel of the right architecture is taken, or the one that was named', async () => {
  const root = join(directory, 'root')
  for (const release of ['6.1.0-9-cloud-amd64', '6.1.0-53-cloud-amd64', '6.12.0-1-cloud-arm64', '6.12.1-amd64'])
    await write(join(root, 'boot', `vmlinuz-${release}`), 'kernel')
  await mkdir(join(root, 'lib/modules/6.1.0-53-cloud-amd64'), { recursive: true })
  const found = await findKernel({ arch: 'amd64', roots: [root] })
  assert.equal(found?.release, '6.1.0-53-cloud-amd64')
  assert.equal(found?.modules, join(root, 'lib/modules/6.1.0-53-cloud-amd64'))
  const path = join(root, 'boot/vmlinuz-6.12.1-amd64')
  assert.equal((await findKernel({ arch: 'amd64', roots: [root], path }))?.path, path)
  assert.equal(await findKernel({ arch: 'amd64', roots: [root], path: '/nowhere' }), undefined)
})

test('the first file system is made once of the same things, and anew of others', async () => {
  const root = join(directory, 'small')
  await write(join(root, 'boot/vmlinuz-1-cloud-amd64'), 'kernel')
  await module(join(root, 'lib/modules/1-cloud-amd64'), 'virtio_blk.ko', '')
  const init = join(directory, 'init')
  await write(init, 'a program')
  const options = { arch: 'amd64', roots: [root], init, directory: join(directory, 'kept') } as const
  const { initrd } = await bootFiles(options)
  assert.equal((await bootFiles(options)).initrd, initrd)
  const names = entriesOf(gunzipSync(await readFile(initrd))).map(({ name }) => name)
  assert.ok(names.includes('init') && names.includes('modules/10-virtio_blk.ko') && names.includes('dev/console'))
  await write(init, 'another program')
  assert.notEqual((await bootFiles(options)).initrd, initrd)
})

test('without a kernel it is said what to do', async () => {
  await assert.rejects(
    bootFiles({ arch: 'amd64', roots: [], path: '/nowhere', init: '/init', directory }),
    /no Linux kernel for amd64 guests was found; install linux-image-cloud-amd64, run tools\/kernel/,
  )
})

test('a packed kernel gives the kernel in it, however it was packed', async () => {
  const kernel = Buffer.concat([Buffer.from('\x7fELF', 'latin1'), Buffer.alloc(100, 'ab'), Buffer.alloc(50)])
  const size = Buffer.alloc(4)
  size.writeUInt32LE(kernel.length)
  const payloads = {
    gzip: gzipSync(kernel),
    zstd: Buffer.concat([zstdCompressSync(kernel), size]),
    lz4: Buffer.concat([packedByLz4(kernel), size]),
  }
  for (const [how, payload] of Object.entries(payloads)) {
    const image = Buffer.alloc(1024 + 4 + payload.length)
    image[0x1f1] = 1
    image.write('HdrS', 0x202)
    image.writeUInt32LE(4, 0x248)
    image.writeUInt32LE(payload.length, 0x24c)
    payload.copy(image, 1024 + 4)
    assert.deepEqual(await vmlinux(image), kernel, how)
  }
  assert.equal(await vmlinux(Buffer.alloc(2000)), undefined)
  assert.equal(await vmlinux(kernel), kernel)
})

test('damaged lz4 data gives an error and no more', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      const length = Buffer.alloc(4)
      length.writeUInt32LE(bytes.length)
      try {
        lz4Legacy(Buffer.concat([Buffer.alloc(4), length, bytes]))
      } catch (error) {
        assert.ok(error instanceof RangeError)
      }
    }),
  )
})

/** Literals to the first run of `ab`, then the run as one match, then zeros as another, then the end. */
function packedByLz4(kernel: Buffer): Buffer {
  const block = Buffer.from([
    ...[0x6f, ...kernel.subarray(0, 6), 2, 0, 98 - 4 - 15],
    ...[0x1f, 0, 1, 0, 48 - 4 - 15],
    ...[0x10, 0],
  ])
  const header = Buffer.from('02214c1800000000', 'hex')
  header.writeUInt32LE(block.length, 4)
  return Buffer.concat([header, block])
}

interface Entry {
  name: string
  mode: number
  major: number
  minor: number
  data: string
}

/** Reads an archive as the kernel does. */
function entriesOf(archive: Buffer): Entry[] {
  const entries: Entry[] = []
  for (let at = 0; at < archive.length; ) {
    assert.equal(archive.toString('latin1', at, at + 6), '070701')
    const fieldAt = (index: number) =>
      Number.parseInt(archive.toString('latin1', at + 6 + index * 8, at + 14 + index * 8), 16)
    const [size, nameSize] = [fieldAt(6), fieldAt(11)]
    const dataAt = (at + 110 + nameSize + 3) & ~3
    entries.push({
      name: archive.toString('utf8', at + 110, at + 110 + nameSize - 1),
      ...{ mode: fieldAt(1), major: fieldAt(9), minor: fieldAt(10) },
      data: archive.toString('utf8', dataAt, dataAt + size),
    })
    at = (dataAt + size + 3) & ~3
  }
  return entries
}

async function module(root: string, path: string, depends: string): Promise<void> {
  const data = Buffer.from(`\x7fELF\0license=GPL\0depends=${depends}\0name=x\0`)
  await write(join(root, path), path.endsWith('.zst') ? zstdCompressSync(data) : data)
}

async function write(path: string, data: string | Buffer): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, data)
}
