import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { chown, lutimes, mkdir, mkdtemp, open, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { openTestServer } from '../../blocks/server/testing.ts'
import type { Image } from '../../images/store.ts'
import { seededRandom } from '../../kit/random.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { makeBaseLayer } from './base-layer.ts'
import { makeFileSystem } from './make-file-system.ts'

const execute = promisify(execFile)
const skip = process.getuid?.() === 0 ? false : 'needs root'
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` }
const signal = AbortSignal.timeout(60_000)

async function workplace() {
  const path = await mkdtemp(join(tmpdir(), 'tutti-disk-'))
  const root = join(path, 'root')
  await mkdir(join(root, 'etc'), { recursive: true })
  await writeFile(join(root, 'etc/hello'), 'world\n', { mode: 0o640 })
  await writeFile(join(root, 'big'), Buffer.alloc(3 << 20, 'tutti'))
  await symlink('etc/hello', join(root, 'link'))
  // Reading a file would set the time when it was last read, which is on the disk too.
  const later = Date.now() / 1000 + 3600
  for (const name of ['link', 'big', 'etc/hello', 'etc', '.']) await lutimes(join(root, name), later, later - 7200)
  return { path, root, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) }
}

test('a disk has the files of the image with their owners, and is the same as long as they are', { skip }, async () => {
  await using place = await workplace()
  await chown(join(place.root, 'etc/hello'), 1234, 77)
  const make = async (file: string) => {
    await makeFileSystem({ root: place.root, file, sizeMiB: 64, what: 'image "x"', seed: 'digest', signal })
    return file
  }
  const one = await make(join(place.path, 'one'))
  const two = await make(join(place.path, 'two'))
  await execute('cmp', [one, two])
  await execute('e2fsck', ['-fn', one], { env })
  const { stdout } = await execute('debugfs', ['-R', 'stat /etc/hello', one], { env })
  assert.match(stdout, /User:\s+1234\s+Group:\s+77/)
  assert.match(stdout, /Mode:\s+0640/)
})

test('files belong to whom the image says, also where the file system of the node cannot', async () => {
  await using place = await workplace()
  await writeFile(join(place.root, 'etc/a "b"'), 'x')
  const owners = new Map([
    ['etc/hello', { uid: 1234, gid: 70_000, mode: 0o4600 }],
    ['etc/a "b"', { uid: 1, gid: 2, mode: 0 }],
    ['link', { uid: 5, gid: 5, mode: 0o777 }],
  ])
  // May set the user, which has a byte that is no text.
  const capability = Buffer.from('0100000280000000000000000000000000000000', 'hex')
  const attributes = new Map([
    ['etc/hello', { 'security.capability': capability, 'user.note': Buffer.from('a') }],
    ['gone', { 'user.note': Buffer.from('b') }],
  ])
  const file = join(place.path, 'disk')
  const options = { root: place.root, owners, attributes, file, sizeMiB: 64, what: 'image "x"', seed: 'digest', signal }
  await makeFileSystem(options)
  await execute('e2fsck', ['-fn', file], { env })
  const expected: Record<string, RegExp> = {
    '/etc/hello': /Type: regular .* Mode: {2}04600 [\s\S]*User: {2}1234 +Group: 70000 /,
    '"/etc/a ""b"""': /Type: regular .* Mode: {2}0000 [\s\S]*User: +1 +Group: +2 /,
    '/link': /Type: symlink [\s\S]*User: +5 +Group: +5 /,
    '/': /Type: directory .* Mode: {2}0755 [\s\S]*User: +0 +Group: +0 /,
    '/big': /User: +0 +Group: +0 /,
  }
  for (const [path, pattern] of Object.entries(expected))
    assert.match((await execute('debugfs', ['-R', `stat ${path}`, file], { env })).stdout, pattern, path)
  const copied = join(place.path, 'value')
  await execute('debugfs', ['-R', `ea_get -f ${copied} /etc/hello security.capability`, file], { env })
  assert.deepEqual(await readFile(copied), capability)
  assert.deepEqual((await readdir(place.path)).sort(), ['disk', 'root', 'value'])
  await writeFile(join(place.root, 'a\nb'), '')
  await assert.rejects(makeFileSystem(options), /image "x" has a file with a line break in its name, which only root/)
})

test('an image that does not fit is refused with a sentence', { skip }, async () => {
  await using place = await workplace()
  await writeFile(join(place.root, 'more'), Buffer.alloc(70 << 20, 'x'))
  const options = {
    root: place.root,
    file: join(place.path, 'disk'),
    sizeMiB: 64,
    what: 'image "x"',
    seed: 'a',
    signal,
  }
  await assert.rejects(
    makeFileSystem(options),
    /^Fault: image "x" does not fit on a disk of 64 MiB; ask for a larger disk$/,
  )
})

test('a layer made of an image holds its disk byte for byte', { skip }, async () => {
  await using place = await workplace()
  await using server = await openTestServer()
  const { content } = server
  const image = { digest: `sha256:${'ab'.repeat(32)}`, rootfs: place.root } as Image
  const layer = await makeBaseLayer({
    blocks: server,
    clock: systemClock,
    random: seededRandom('disk'),
    image,
    name: 'x',
    diskMiB: 64,
    machine: { arch: 'amd64', cpus: 1, memoryMiB: 64 },
    reference: 'layer/abc',
    directory: join(place.path, 'work'),
    progress: () => {},
    signal,
  })
  assert.equal(await content.reference('layer/abc'), layer.id)
  const file = join(place.path, 'again')
  await makeFileSystem({ root: place.root, file, sizeMiB: 64, what: 'x', seed: image.digest, signal })
  const reader = await content.open(layer.disk, { packs: layer.packs })
  await using handle = await open(file)
  const bytes = Buffer.alloc(layer.disk.chunkBytes)
  let stored = 0
  for (let number = 0; number * bytes.length < layer.disk.size; number += 1) {
    await handle.read(bytes, 0, bytes.length, number * bytes.length)
    assert.ok(bytes.equals(await reader.read(number)), `chunk ${number}`)
    if (!reader.isZero(number)) stored += 1
  }
  assert.ok(stored > 48 && stored < 200, `${stored} chunks`)
})

test('calling off leaves nothing behind', { skip }, async () => {
  await using place = await workplace()
  const options = {
    root: place.root,
    file: join(place.path, 'disk'),
    sizeMiB: 64,
    what: 'x',
    seed: 'a',
    signal: AbortSignal.abort(),
  }
  await assert.rejects(makeFileSystem(options), { name: 'AbortError' })
  assert.deepEqual(await readdir(place.path), ['root'])
})
