import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { lstat, mkdir, mkdtemp, readFile, readlink, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { after, before, describe, test } from 'node:test'
import { gzipSync } from 'node:zlib'
import { pack } from 'tar-stream'
import { lackingAgent, startAgent } from '../../guest/channel/testing.ts'
import type { GuestChannel } from '../../guest/channel.ts'
import { selectSource } from '../../recipe/context/select-source.ts'
import { receiveContext } from '../context/receive-context.ts'
import { copyFiles } from './copy-files.ts'
import { machineFiles } from './machine-files.ts'
import { selectFrom } from './other-files.ts'

/** The reason to skip what needs capabilities on files, or false. */
function lackingCapabilities(): string | false {
  const found = ['setcap', 'getcap', 'tar'].every((program) => {
    try {
      return execFileSync('sh', ['-c', `command -v ${program}`]).length > 0
    } catch {
      return false
    }
  })
  return found ? false : 'needs setcap, getcap and tar'
}

const lacking = process.getuid?.() === 0 ? lackingAgent() : 'needs root'
const signal = AbortSignal.timeout(60_000)

type Contents = Record<string, string | Buffer | { mode: number } | { link: string }>

/** An archive: text is a file, a mode a directory. */
function archiveOf(contents: Contents): Readable {
  const archive = pack()
  for (const [name, what] of Object.entries(contents)) {
    if (typeof what === 'string' || Buffer.isBuffer(what)) archive.entry({ name, mode: 0o640 }, what)
    else if ('link' in what) archive.entry({ name, type: 'symlink', linkname: what.link })
    else archive.entry({ name, type: 'directory', mode: what.mode })
  }
  archive.finalize()
  return Readable.from(archive)
}

describe('files copied by a real agent', { skip: lacking ?? false }, () => {
  let place: string
  let channel: GuestChannel
  const stack = new AsyncDisposableStack()
  before(async () => {
    place = await mkdtemp(join(tmpdir(), 'tutti-copy-'))
    stack.defer(() => rm(place, { recursive: true, force: true }))
    const agent = stack.use(startAgent())
    channel = stack.use(await agent.connect())
  })
  after(() => stack.disposeAsync())

  async function copy(
    contents: Contents,
    sources: string[],
    to: string,
    options: { owner?: string; mode?: number | string; unpack?: boolean } = {},
  ) {
    const directory = await mkdtemp(join(place, 'work-'))
    await using context = await receiveContext(archiveOf(contents), { directory: join(directory, 'context'), signal })
    const selected = sources.flatMap((source) => selectSource(context.tree, source))
    const { owner, mode, unpack = false } = options
    return await copyFiles(channel, { sources: selected, to, owner, mode, unpack, cwd: place, directory, signal })
  }

  test('a tree arrives with modes, links, empty files and directories, owned by root', async () => {
    const contents = {
      'd/': { mode: 0o755 },
      'd/a': 'text',
      'd/empty': '',
      'd/l': { link: 'a' },
      'd/s/': { mode: 0o700 },
    }
    assert.deepEqual(await copy(contents, ['d'], 'tree'), { files: 2, bytes: 4, stripped: 0 })
    assert.equal(await readFile(join(place, 'tree/a'), 'utf8'), 'text')
    assert.equal(await readFile(join(place, 'tree/empty'), 'utf8'), '')
    assert.equal(await readlink(join(place, 'tree/l')), 'a')
    const [file, directory] = [await lstat(join(place, 'tree/a')), await lstat(join(place, 'tree/s'))]
    assert.equal(file.mode & 0o777, 0o640)
    assert.equal(directory.mode & 0o777, 0o700)
    assert.equal(file.uid, 0)
  })

  test('extended attributes arrive as they are, capabilities above all', { skip: lackingCapabilities() }, async () => {
    const from = join(place, 'able')
    await mkdir(from)
    for (const name of ['empty', 'long', 'plain']) await writeFile(join(from, name), name === 'empty' ? '' : name)
    const capabilities = 'cap_setuid,cap_net_raw=ep'
    for (const name of ['empty', 'long']) execFileSync('setcap', [capabilities, join(from, name)])
    const directory = await mkdtemp(join(place, 'work-'))
    const files = machineFiles(channel, { directory, of: 'it', signal })
    const sources = await selectFrom(files, [from], 'it')
    const settings = { to: 'able-too/', owner: '12:12', mode: undefined, unpack: false, cwd: place, directory, signal }
    assert.equal((await copyFiles(channel, { sources, ...settings })).stripped, 0)
    const found = execFileSync('getcap', ['-r', join(place, 'able-too')], { encoding: 'utf8' })
    const names = found
      .match(/\w+ (?==? ?cap)/g)
      ?.map((name) => name.trim())
      .sort()
    assert.deepEqual(names, ['empty', 'long'], found)
    assert.match(found, /cap_setuid/)
  })

  test('a symbolic mode changes what each file has', async () => {
    await copy({ 'm/': { mode: 0o700 }, 'm/f': 'x', 'm/s/': { mode: 0o700 } }, ['m'], 'moded', { mode: 'go=rX' })
    const modes = await Promise.all(
      ['f', 's'].map(async (name) => (await lstat(join(place, 'moded', name))).mode & 0o777),
    )
    assert.deepEqual(modes, [0o644, 0o755])
  })

  test('owner and mode are set on all of it, also on directories made on the way', async () => {
    await copy({ f: 'x' }, ['f'], 'own/deep/f', { owner: '1234:77', mode: 0o600 })
    for (const path of ['own', 'own/deep', 'own/deep/f']) {
      const { uid, gid } = await lstat(join(place, path))
      assert.deepEqual([uid, gid], [1234, 77], path)
    }
    assert.equal((await lstat(join(place, 'own/deep/f'))).mode & 0o777, 0o600)
    await copy({ f: 'x' }, ['f'], 'own/daemon', { owner: 'daemon' })
    assert.equal((await lstat(join(place, 'own/daemon'))).uid, 1)
    await assert.rejects(
      copy({ f: 'x' }, ['f'], 'own/x', { owner: 'nobody-here' }),
      /--chown=nobody-here: there is no user "nobody-here"/,
    )
  })

  test('what is there stays, unless it is copied over', async () => {
    await mkdir(join(place, 'merge/s'), { recursive: true })
    await writeFile(join(place, 'merge/keep'), 'kept')
    await writeFile(join(place, 'merge/s/x'), 'old')
    await copy({ 'd/s/x': 'new', 'd/y': 'y', 'd/s': { mode: 0o755 } }, ['d'], 'merge')
    assert.equal(await readFile(join(place, 'merge/keep'), 'utf8'), 'kept')
    assert.equal(await readFile(join(place, 'merge/s/x'), 'utf8'), 'new')
  })

  test('a directory that is reached through a link stays a link', async () => {
    await mkdir(join(place, 'usr/lib'), { recursive: true })
    await symlink('usr/lib', join(place, 'lib'))
    await copy({ 'd/': { mode: 0o755 }, 'd/lib/': { mode: 0o755 }, 'd/lib/x': 'x' }, ['d'], '.')
    assert.equal(await readlink(join(place, 'lib')), 'usr/lib')
    assert.equal(await readFile(join(place, 'usr/lib/x'), 'utf8'), 'x')
  })

  test('large files and many files arrive whole', async () => {
    const big = Buffer.alloc(5_000_000, 'tutti!')
    const many = Object.fromEntries(Array.from({ length: 500 }, (_, at) => [`m/${at}`, String(at)]))
    await copy({ big, ...many }, ['big', 'm'], 'many/')
    assert.ok(big.equals(await readFile(join(place, 'many/big'))))
    assert.equal(await readFile(join(place, 'many/499'), 'utf8'), '499')
  })

  test('ADD unpacks archives, and copies what is none', async () => {
    const inner = Buffer.concat(await Array.fromAsync(archiveOf({ 'in/a': 'packed', 'in/l': { link: 'a' } })))
    await copy({ 'x.tar': inner, 'x.tgz': gzipSync(inner), 'x.gz': gzipSync('plain') }, ['x.tar'], 'tar', {
      unpack: true,
    })
    assert.equal(await readFile(join(place, 'tar/in/a'), 'utf8'), 'packed')
    await copy({ 'x.tgz': gzipSync(inner) }, ['x.tgz'], 'tgz/', { unpack: true })
    assert.equal(await readlink(join(place, 'tgz/in/l')), 'a')
    await copy({ 'x.gz': gzipSync('plain') }, ['x.gz'], 'gz/', { unpack: true })
    assert.ok((await lstat(join(place, 'gz/x.gz'))).isFile())
    await copy({ 'x.tar': inner }, ['x.tar'], 'copied/')
    assert.ok((await lstat(join(place, 'copied/x.tar'))).isFile())
    await assert.rejects(
      copy({ 'x.xz': Buffer.from('fd377a585a00', 'hex') }, ['x.xz'], 'xz/', { unpack: true }),
      /ADD does not unpack xz: "x\.xz"/,
    )
  })

  test('a file is not put in the place of a directory, nor a directory in that of a file', async () => {
    await mkdir(join(place, 'place/f'), { recursive: true })
    await writeFile(join(place, 'place/d'), '')
    await assert.rejects(
      copy({ f: '' }, ['f'], 'place/'),
      /cannot copy file "f" to ".*\/place\/f", which is a directory/,
    )
    await assert.rejects(
      copy({ 'x/d/y': '', 'x/d': { mode: 0o755 } }, ['x'], 'place'),
      /place\/d" is a file in the image/,
    )
  })
})

test('a context with paths out of it, or with devices, is refused', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-context-'))
  try {
    const receive = (archive: Readable) => receiveContext(archive, { directory: join(directory, 'x'), signal })
    await assert.rejects(
      receive(archiveOf({ '../x': '' })),
      /the build context holds "\.\.\/x", which lies outside of it/,
    )
    const device = pack()
    device.entry({ name: 'tty', type: 'character-device' })
    device.finalize()
    await assert.rejects(receive(Readable.from(device)), /"tty", which is no file, directory or symbolic link/)
    await assert.rejects(receive(Readable.from([Buffer.alloc(1000, 'x')])), /the build context did not arrive whole/)
    await assert.rejects(lstat(join(directory, 'x')), { code: 'ENOENT' })
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
})
