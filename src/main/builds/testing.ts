import { execFile } from 'node:child_process'
import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { diskChunkBytes } from '../../blocks/manifest.ts'
import type { LocalContentStore } from '../../blocks/open.ts'
import { diskOnly, fresh, openTestStore, storeBuild, temporaryDirectory, testBuildId } from '../../blocks/testing.ts'
import { type TestCli, type TestCliOptions, testCli } from '../../cli/testing.ts'
import { seededRandom } from '../../kit/random.ts'
import type { BuildId } from '../../model/ids.ts'
import { mainCommands } from '../main-commands.ts'

/** What the tests of the commands for builds stand on. */

export const execute = promisify(execFile)

/** A command line with all commands, and two builds in a store beside its home. */
export interface TestBuilds extends AsyncDisposable {
  shell: TestCli
  /** For files. */
  path: string
  /** A closed content store. */
  store: string
  first: BuildId
  second: BuildId
}

const chunk = diskChunkBytes

export function firstContent(): Buffer {
  const content = fresh(seededRandom('first'), 64 * chunk)
  content.fill(0, 10 * chunk, 50 * chunk)
  return content
}

/** Two chunks changed, one added, one cleared. */
export function secondContent(): Buffer {
  const content = firstContent()
  content.set(fresh(seededRandom('changed'), 2 * chunk), 0)
  content.set(fresh(seededRandom('added'), chunk), 20 * chunk)
  content.fill(0, 60 * chunk, 61 * chunk)
  return content
}

export async function testBuilds(options: TestCliOptions = {}): Promise<TestBuilds> {
  await using opened = new AsyncDisposableStack()
  const { path } = opened.use(await temporaryDirectory())
  const shell = opened.use(await testCli({ commands: mainCommands, ...options }))
  const store = join(path, 'store')
  const [first, second] = [testBuildId('first'), testBuildId('second')]
  await using content = await openTestStore(store)
  const parent = await storeBuild(content, first, firstContent(), { chunkBytes: chunk, reference: 'template/first' })
  await storeBuild(content, second, secondContent(), { chunkBytes: chunk, parent, reference: 'template/second' })
  const owned = opened.move()
  return { shell, path, store, first, second, [Symbol.asyncDispose]: () => owned.disposeAsync() }
}

/** A file system with files of several owners and modes, as the disk of a build. */
export async function storeRootFileSystem(store: LocalContentStore, directory: string, id: BuildId): Promise<void> {
  const root = join(directory, 'root')
  for (const part of ['etc', 'home/user', 'bin']) await mkdir(join(root, part), { recursive: true })
  const script = `
    cd "$1"
    printf 'secret' > etc/shadow && chmod 640 etc/shadow && chown 0:42 etc/shadow
    printf '#!/bin/true' > bin/su && chmod 4755 bin/su
    printf 'mine' > home/user/note && chown -R 1000:1000 home/user && chmod 600 home/user/note
    printf 'user:x:1000:1000::/home/user:/bin/sh\\n' > etc/passwd
    ln -s etc/shadow link`
  await execute('sh', ['-euc', script, 'sh', root])
  const disk = join(directory, 'disk')
  await execute('mke2fs', ['-q', '-t', 'ext4', '-d', root, disk, '16M'])
  await using writer = await store.write()
  const bytes = await readFile(disk)
  const count = Math.ceil(bytes.length / chunk)
  const ids = await Promise.all(
    Array.from({ length: count }, (_, n) => writer.add(bytes.subarray(n * chunk, (n + 1) * chunk))),
  )
  const image = await writer.image({ size: bytes.length, chunkBytes: chunk }, (n) => ids[n] as Uint8Array)
  const defaults = { env: { GREETING: 'hello' }, user: 'user', cwd: '/home/user' }
  await writer.publish({ ...diskOnly(id, image), defaults })
  await store.setReference(`build/${id}`, id)
}
