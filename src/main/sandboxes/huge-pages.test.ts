import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { hugePages } from './huge-pages.ts'

test('huge pages that are promised to somebody are not free, and where none are set aside nothing is said', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-huge-'))
  t.after(() => rm(directory, { recursive: true }))
  assert.equal(hugePages(directory), undefined)
  const say = async (numbers: Record<string, number>) => {
    for (const [name, value] of Object.entries(numbers)) await writeFile(join(directory, name), `${value}\n`)
  }
  await say({ nr_hugepages: 0, free_hugepages: 0, resv_hugepages: 0 })
  assert.equal(hugePages(directory), undefined)
  await say({ nr_hugepages: 8, free_hugepages: 6, resv_hugepages: 4 })
  assert.deepEqual(hugePages(directory), { setAsideBytes: 16 * 2 ** 20, freeBytes: 4 * 2 ** 20 })
})
