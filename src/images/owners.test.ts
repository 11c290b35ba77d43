import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { test } from 'node:test'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { type Header, pack } from 'tar-stream'
import { ownersOf, readLayers, writeOwners } from './owners.ts'

const signal = AbortSignal.timeout(20_000)

async function archive(entries: Partial<Header>[]): Promise<Buffer> {
  const stream = pack()
  for (const entry of entries) stream.entry({ name: '', ...entry }, '')
  stream.finalize()
  return buffer(stream)
}

test('owners are those of the last layer, whatever layers are packed with, and are found again', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-owners-'))
  try {
    const lower = await archive([
      { name: './etc/', type: 'directory', mode: 0o755 },
      { name: './etc/shadow', uid: 0, gid: 42, mode: 0o640 },
      { name: 'app', uid: 1, gid: 1, mode: 0o100755 },
      { name: 'same', type: 'link', linkname: './app', uid: 0, gid: 0, mode: 0o644 },
    ])
    const middle = await archive([{ name: 'etc/shadow', uid: 7, gid: 7, mode: 0o1 }])
    const upper = await archive([{ name: 'app', uid: 2, gid: 3, mode: 0o4755 }])
    const layers = { lower: gzipSync(lower), middle: zstdCompressSync(middle), upper }
    for (const [name, bytes] of Object.entries(layers)) await writeFile(join(directory, name), bytes)
    const { owners } = await readLayers(
      Object.keys(layers).map((name) => join(directory, name)),
      signal,
    )
    assert.deepEqual(Object.fromEntries(owners), {
      etc: { uid: 0, gid: 0, mode: 0o755 },
      'etc/shadow': { uid: 7, gid: 7, mode: 0o1 },
      app: { uid: 2, gid: 3, mode: 0o4755 },
      same: { uid: 1, gid: 1, mode: 0o755 },
    })
    const rootfs = join(directory, 'rootfs')
    await mkdir(rootfs)
    assert.equal(await ownersOf(rootfs), undefined)
    await writeOwners(rootfs, owners)
    assert.deepEqual(await ownersOf(rootfs), owners)
    await writeFile(join(directory, 'broken'), gzipSync(lower).subarray(0, 60))
    await assert.rejects(readLayers([join(directory, 'broken')], signal))
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
})
