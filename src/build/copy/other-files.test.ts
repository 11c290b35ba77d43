import assert from 'node:assert/strict'
import { chmod, link, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { lackingAgent, startAgent } from '../../guest/channel/testing.ts'
import type { GuestChannel } from '../../guest/channel.ts'
import type { ReceivedEntry } from '../context/receive-context.ts'
import { imageFiles } from './image-files.ts'
import { machineFiles } from './machine-files.ts'
import { type OtherFiles, selectFrom } from './other-files.ts'

const lacking = process.getuid?.() === 0 ? lackingAgent() : 'needs root'
const signal = AbortSignal.timeout(60_000)

describe('files of stages and images', { skip: lacking ?? false }, () => {
  const stack = new AsyncDisposableStack()
  let place: string
  let channel: GuestChannel
  before(async () => {
    place = await mkdtemp(join(tmpdir(), 'tutti-other-'))
    stack.defer(() => rm(place, { recursive: true, force: true }))
    await mkdir(join(place, 'd/s'), { recursive: true })
    await writeFile(join(place, 'd/a.txt'), 'a')
    await writeFile(join(place, 'd/b.txt'), '')
    await chmod(join(place, 'd/b.txt'), 0o4711)
    await link(join(place, 'd/a.txt'), join(place, 'd/s/same'))
    await symlink('../a.txt', join(place, 'd/s/link'))
    await symlink('d/s', join(place, 'way'))
    await symlink('way', join(place, 'loop-no'))
    await symlink('loop', join(place, 'loop'))
    const agent = stack.use(startAgent())
    channel = stack.use(await agent.connect())
  })
  after(() => stack.disposeAsync())

  /** The same of both: what is selected, with everything about it that is copied. */
  async function select(files: OtherFiles, root: string, sources: string[]) {
    const selected = await selectFrom(
      files,
      sources.map((source) => `${root}/${source}`),
      'it',
    )
    const shown = async ({ type, mode, size, target, owner, file }: ReceivedEntry) => [
      ...[type, (mode & 0o7777).toString(8), size],
      ...[target ?? (file === undefined ? '' : await readFile(file, 'utf8')), owner?.uid],
    ]
    return Promise.all(
      selected.map(async ({ name, found }) =>
        found.kind === 'file'
          ? { [name]: await shown(found.entry) }
          : Object.fromEntries(
              await Promise.all(
                found.entries.map(async ({ below, entry }) => [`${name}/${below}`, await shown(entry)]),
              ),
            ),
      ),
    )
  }

  test('sources are found through links and patterns, in images and in machines alike', async () => {
    const image = imageFiles(place, { owners: undefined, attributes: new Map() }, signal)
    const machine = machineFiles(channel, { directory: join(place, 'taken'), of: 'it', signal })
    const a = ['file', '644', 1, 'a', 0]
    const b = ['file', '4711', 0, '', 0]
    const inS = { 'way/link': ['link', '777', 0, '../a.txt', 0], 'way/same': a }
    for (const [files, root] of [
      [image, ''],
      [machine, place],
    ] as const) {
      assert.deepEqual(await select(files, root, ['d/*.txt']), [{ 'a.txt': a }, { 'b.txt': b }])
      assert.deepEqual(await select(files, root, ['way']), [inS])
      assert.deepEqual(await select(files, root, ['way/link', 'loop-no/../d/a.txt']), [{ link: a }, { 'a.txt': a }])
      assert.deepEqual(await select(files, root, ['w[a]y/s*']), [{ same: a }])
      await assert.rejects(select(files, root, ['d/none']), /cannot copy ".*d\/none": it has nothing of that name/)
      await assert.rejects(select(files, root, ['loop']), /nothing of that name/)
      await assert.rejects(select(files, root, ['d/a.txt/x']), /nothing of that name/)
      await assert.rejects(select(files, root, ['d/[']), /is not a pattern/)
    }
  })

  test('two names of one file stay one', async () => {
    for (const [files, root] of [
      [imageFiles(place, { owners: undefined, attributes: new Map() }, signal), ''],
      [machineFiles(channel, { directory: join(place, 'work'), of: 'it', signal }), place],
    ] as const) {
      const tree = await files.take([`${root}/d`])
      const below = root.slice(1) === '' ? '' : `${root.slice(1)}/`
      const [one, other] = [tree.get(`${below}d/a.txt`), tree.get(`${below}d/s/same`)]
      assert.ok(one?.inode !== undefined && one.inode === other?.inode)
    }
  })
})
