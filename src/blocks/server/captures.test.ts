import assert from 'node:assert/strict'
import { existsSync, readdirSync, statSync, writeSync } from 'node:fs'
import { appendFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { SteppedClock } from '../../kit/stepped-clock.ts'
import { pageBytes } from '../memory/mapping.ts'
import { writePages, writeRuns } from '../memory/pages-file.ts'
import { temporaryDirectory, testBuildId } from '../testing.ts'
import { Captures } from './captures.ts'

const template = testBuildId('template')
const size = 64 * pageBytes

async function world(options: { keptPages: number }) {
  const directory = await temporaryDirectory()
  const clock = new SteppedClock()
  const captures = new Captures({ directory: directory.path, clock, keptBytes: options.keptPages * pageBytes })
  await captures.prepare()
  const place = join(directory.path, 'differences')
  /** Numbers of builds of which a difference is kept, and the pages of all. */
  const kept = () => {
    const names = readdirSync(place).filter((name) => !name.includes('.'))
    return {
      builds: [1, 2, 3, 4].filter((n) => names.some((name) => name.startsWith(`${build(n)}-`))),
      pages: names.reduce((sum, name) => sum + statSync(join(place, name)).size, 0) / pageBytes,
    }
  }
  /** A machine paused with so many pages of its own, over those of the build before. */
  const pause = (n: number, first: number, count: number) => {
    const name = `capture-${n}`
    writePages(captures.path(name), [{ first, count }], (fd) => writeAll(fd, count))
    captures.note(name, { image: template, over: n === 1 ? null : build(n - 1), size })
    captures.keep(name, build(n))
  }
  return { captures, clock, place, kept, pause, [Symbol.asyncDispose]: () => directory[Symbol.asyncDispose]() }
}

const build = (n: number) => testBuildId(`paused ${n}`)

function writeAll(fd: number, count: number): void {
  writeSync(fd, Buffer.alloc(count * pageBytes, 1))
}

test('the limit of differences holds as soon as one is there that is made of two', async () => {
  await using at = await world({ keptPages: 20 })
  at.pause(1, 0, 8)
  assert.deepEqual(at.kept(), { builds: [1], pages: 8 })
  at.pause(2, 8, 6)
  await at.captures.settled()
  // 8 and 14 pages are more than 20, so the older one goes.
  assert.deepEqual(at.kept(), { builds: [2], pages: 14 })
  assert.deepEqual(at.captures.list(), [])
})

test('a difference that is made for whoever asks counts too, and is there for them', async () => {
  await using at = await world({ keptPages: 20 })
  at.pause(1, 0, 12)
  const make = async (into: string) => {
    await writeFile(into, Buffer.alloc(24 * pageBytes))
    writeRuns(into, [{ first: 0, count: 24 }])
  }
  const path = await at.captures.difference(build(3), template, make)
  assert.ok(existsSync(path))
  assert.deepEqual(at.kept(), { builds: [3], pages: 24 })
})

test('nothing half stays of a difference that could not be made', async () => {
  await using at = await world({ keptPages: 20 })
  const make = async (into: string) => {
    await appendFile(`${into}.part`, 'half')
    throw new Error('the disk is full')
  }
  await assert.rejects(at.captures.difference(build(1), template, make), /the disk is full/)
  assert.deepEqual(readdirSync(at.place), [])
})
