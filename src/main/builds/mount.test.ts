import assert from 'node:assert/strict'
import { chmod, mkdir, readdir, readFile, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { without } from '../../blocks/server/testing.ts'
import { openTestStore, testBuildId } from '../../blocks/testing.ts'
import { isMountPoint } from './mount-disk.ts'
import { execute, storeRootFileSystem, type TestBuilds, testBuilds } from './testing.ts'

const skip = process.getuid?.() === 0 ? without('nbdfuse', 'mount', 'mke2fs', 'losetup', 'tar') : 'mounting needs root'
const build = testBuildId('root')

async function withFileSystem(): Promise<TestBuilds> {
  const at = await testBuilds()
  await using store = await openTestStore(at.store)
  await storeRootFileSystem(store, at.path, build)
  return at
}

/** What a mount leaves when it does not clean up behind itself. */
async function leftovers(): Promise<string[]> {
  const table = await readFile('/proc/self/mountinfo', 'utf8')
  const mounts = table.split('\n').filter((line) => line.includes('tutti-mount-'))
  const scratch = (await readdir(tmpdir())).filter((name) => name.startsWith('tutti-mount-'))
  return [...mounts, ...scratch]
}

test("a build's root file system is mounted until it is interrupted", { skip }, async () => {
  await using at = await withFileSystem()
  const directory = join(at.path, 'at')
  const before = await leftovers()
  const mounting = at.shell.run('build', 'mount', build, directory, '--store', at.store)
  while (!(await isMountPoint(directory))) await sleep(10)
  assert.equal(await readFile(join(directory, 'home/user/note'), 'utf8'), 'mine')
  assert.equal((await stat(join(directory, 'etc/shadow'))).gid, 42)
  await assert.rejects(mkdir(join(directory, 'new')), { code: 'EROFS' })
  at.shell.interrupt()
  await mounting
  assert.equal(await isMountPoint(directory), false)
  assert.deepEqual(await leftovers(), before)
})

test('a mount in the background ends with unmount, also when its process was killed', { skip }, async () => {
  await using at = await withFileSystem()
  const directory = join(at.path, 'at')
  const before = await leftovers()
  for (const isKilled of [false, true]) {
    const mounted = await at.shell.run('build', 'mount', build, directory, '--store', at.store, '--detach')
    assert.equal(mounted.code, 0, mounted.err)
    assert.equal(await readFile(join(directory, 'home/user/note'), 'utf8'), 'mine')
    if (isKilled) {
      const notes = join(at.shell.cli.home.cache, 'mounts')
      const [name = ''] = await readdir(notes)
      process.kill(JSON.parse(await readFile(join(notes, name), 'utf8')).pid, 'SIGKILL')
    }
    const ended = await at.shell.run('build', 'unmount', directory)
    assert.equal(ended.code, 0, ended.err)
    assert.equal(await isMountPoint(directory), false)
    while ((await leftovers()).length > before.length) await sleep(20)
  }
})

test('a disk without a file system is not mounted, and nothing is left', { skip }, async () => {
  await using at = await testBuilds()
  const before = await leftovers()
  const { code, err } = await at.shell.run('build', 'mount', at.first, join(at.path, 'at'), '--store', at.store)
  assert.equal(code, 2)
  assert.match(err, /there is no ext4 file system on the disk/)
  assert.deepEqual(await leftovers(), before)
})

test('a build becomes a container image with its owners, modes and defaults', {
  skip: skip || without('skopeo', 'umoci'),
}, async () => {
  await using at = await withFileSystem()
  const before = await leftovers()
  const file = join(at.path, 'image.tar')
  const args = ['--store', at.store, '--oci', file, '--tag', 'web:1', '-o', 'json']
  const { code, out, err } = await at.shell.run('build', 'export', build, ...args)
  assert.equal(code, 0, err)
  assert.equal(JSON.parse(out).oci.tag, 'web:1')
  assert.deepEqual(await leftovers(), before)
  for (const [n, source] of [`oci-archive:${file}:1`, `docker-archive:${file}:web:1`].entries()) {
    const { stdout } = await execute('skopeo', ['inspect', '--config', source])
    const { config, architecture } = JSON.parse(stdout)
    assert.equal(architecture, 'amd64')
    assert.deepEqual([config.Env, config.User, config.WorkingDir], [['GREETING=hello'], 'user', '/home/user'])
    const layout = join(at.path, `layout-${n}:image`)
    await execute('skopeo', ['copy', '--quiet', source, `oci:${layout}`])
    const bundle = join(at.path, `bundle-${n}`)
    await execute('umoci', ['unpack', '--image', layout, bundle])
    const facts = async (path: string) => {
      const { mode, uid, gid } = await stat(join(bundle, 'rootfs', path))
      return [(mode & 0o7777).toString(8), uid, gid]
    }
    assert.deepEqual(await facts('etc/shadow'), ['640', 0, 42])
    assert.deepEqual(await facts('bin/su'), ['4755', 0, 0])
    assert.deepEqual(await facts('home/user/note'), ['600', 1000, 1000])
    assert.deepEqual((await readdir(join(bundle, 'rootfs'))).sort(), ['bin', 'etc', 'home', 'link'])
  }
})

test('without root the file system is mounted by fuse2fs', {
  skip: skip || without('fuse2fs', 'setpriv') || (await fuseForAll()),
}, async () => {
  await using at = await withFileSystem()
  await execute('chown', ['-R', '65534:65534', at.path])
  await chmod(at.path, 0o755)
  const directory = join(at.path, 'at')
  const tutti = (...args: string[]) =>
    execute('setpriv', [
      ...['--reuid=65534', '--regid=65534', '--clear-groups', 'env', `TUTTI_HOME=${at.path}/home`],
      ...[process.execPath, new URL('../tutti.ts', import.meta.url).pathname, 'build', ...args],
    ])
  await tutti('mount', build, directory, '--store', at.store, '--detach')
  const note = await execute('setpriv', ['--reuid=65534', '--clear-groups', 'cat', join(directory, 'home/user/note')])
  assert.equal(note.stdout, 'mine')
  await tutti('unmount', directory)
  assert.equal(await isMountPoint(directory), false)
})

async function fuseForAll(): Promise<string | false> {
  const found = await stat('/dev/fuse').catch(() => undefined)
  return found && (found.mode & 0o006) === 0o006 ? false : 'needs a /dev/fuse that everybody may open'
}
