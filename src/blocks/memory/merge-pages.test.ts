import assert from 'node:assert/strict'
import { readFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { seededRandom } from '../../kit/random.ts'
import { temporaryDirectory } from '../testing.ts'
import { pageBytes, type Run } from './mapping.ts'
import { mergePages } from './merge-pages.ts'
import { bytesOf, type PagesFile, readPages, writePages } from './pages-file.ts'

const pages = 60

test('of two files of pages, one above the other, comes one with the pages of both', async () => {
  await using scratch = await temporaryDirectory()
  const random = seededRandom('merge')
  for (let round = 0; round < 60; round += 1) {
    const beneath = write(join(scratch.path, 'beneath'), pick(random.fraction), 1)
    const above = write(join(scratch.path, 'above'), pick(random.fraction), 2)
    const into = join(scratch.path, 'both')
    await mergePages(above, beneath, into)
    const merged = readPages(into)
    assert.ok(merged)
    const expected = { ...valuesOf(beneath), ...valuesOf(above) }
    assert.deepEqual(valuesOf(merged), expected)
    for (const [index, { first, count }] of merged.runs.slice(0, -1).entries())
      assert.ok((merged.runs[index + 1] as Run).first > first + count, 'runs that touch are one')
  }
})

/** Which of the pages are there. */
function pick(next: () => number): boolean[] {
  const density = next()
  return Array.from({ length: pages }, () => next() < density)
}

/** A page holds its own number, and whose it is. */
function write(path: string, there: readonly boolean[], owner: number): PagesFile {
  const runs: Run[] = []
  there.forEach((isThere, page) => {
    const last = runs.at(-1)
    if (!isThere) return
    if (last && last.first + last.count === page) last.count += 1
    else runs.push({ first: page, count: 1 })
  })
  writePages(path, runs, (fd) => {
    for (const { first, count } of runs)
      for (let page = first; page < first + count; page += 1) {
        const bytes = Buffer.alloc(pageBytes, owner)
        bytes[0] = page
        writeSync(fd, bytes)
      }
  })
  return { path, runs }
}

function valuesOf(file: PagesFile): Record<number, number> {
  const bytes = readFileSync(file.path)
  assert.equal(bytes.length, bytesOf(file))
  const values: Record<number, number> = {}
  let at = 0
  for (const { first, count } of file.runs)
    for (let page = first; page < first + count; page += 1, at += pageBytes) {
      assert.equal(bytes[at], page)
      values[page] = bytes[at + 1] as number
    }
  return values
}
