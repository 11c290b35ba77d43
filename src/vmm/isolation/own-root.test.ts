import assert from 'node:assert/strict'
import { once } from 'node:events'
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, realpathSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { after, test } from 'node:test'
import { mountsFor } from '../../../test/fixtures/left.ts'
import { silentLog } from '../../kit/log.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { findBuilt } from '../built.ts'
import { Inherited } from './inherited.ts'
import { type Isolation, openIsolation } from './isolation.ts'
import { startLodged } from './lodging.ts'
import { libraries, type OwnRoot, ownRoot } from './own-root.ts'

const opened = openIsolation({ clock: systemClock })
const lacking = findBuilt('enclose') ? undefined : 'native/build was not run'
const skip = ('lacking' in opened ? opened.lacking : lacking) ?? false
const isolation = opened as Isolation

const directory = mkdtempSync(join(tmpdir(), 'tutti-root-'))
const machine = join(directory, 'machine')
mkdirSync(machine)
after(() => rmSync(directory, { recursive: true }))

const shell = ['/bin/sh', '/bin/ls', '/bin/cat'].map((path) => realpathSync(path))
const shows = [...libraries, '/bin', ...shell, '/dev/null', '/nothing/there']
const make = (more: readonly string[] = []) =>
  ownRoot({ shows: () => [...shows, ...more], log: silentLog, tryOut: async (root) => void (await run(root, 'true')) })

test('a program in a root of its own sees what is shown, and itself', { skip }, async () => {
  const root = await make()()
  assert.ok(root)
  const onlyThese = /^((bin|dev|etc|lib|lib64|machine|proc|usr)\n)+$/
  assert.match(await run(root, 'ls /'), onlyThese)
  assert.match(await run(root, 'cd ../..; ls -d *'), onlyThese)
  assert.equal(await run(root, 'ls /dev /etc'), '/dev:\nnull\n\n/etc:\nld.so.cache\n')
  assert.match(await run(root, 'ls /usr'), /^((bin|lib|lib64)\n)+$/)
  const processes = (await run(root, 'cd /proc; ls -d *; echo $$')).trim().split('\n')
  const numbers = processes.filter((name) => /^\d+$/.test(name))
  // The shell, and `ls`.
  assert.ok(numbers.length <= 3 && !numbers.includes(String(process.pid)), processes.join(' '))
  assert.deepEqual(
    processes.filter((name) => !/^\d+$/.test(name)),
    ['self', 'thread-self'],
  )
})

test('it is another user, without capabilities, and stays that', { skip }, async () => {
  const root = await make()()
  assert.ok(root)
  const status = await run(root, 'cat /proc/self/status')
  assert.match(status, /^Uid:\t(\d{5,})\t\1\t\1\t\1$/m)
  assert.match(status, /^Gid:\t(\d{5,})\t\1\t\1\t\1$/m)
  assert.match(status, /^Groups:\s*$/m)
  assert.match(status, /^NoNewPrivs:\t1$/m)
  for (const kind of ['Inh', 'Prm', 'Eff', 'Amb']) assert.match(status, new RegExp(`^Cap${kind}:\t0+$`, 'm'))
})

test('it can write nothing but what it is given, and has nothing of ours open', { skip }, async () => {
  const root = await make()()
  assert.ok(root)
  for (const place of ['/x', '/usr/x', '/usr/lib/x', '/machine/x', '/proc/x', '/dev/x'])
    assert.equal(await run(root, `(: >${place}) 2>/dev/null || echo no`), 'no\n', place)
  assert.equal(await run(root, '(: <>/usr/lib/os-release) 2>/dev/null || echo no'), 'no\n')
  assert.equal(await run(root, 'ls /proc/$$/fd; true'), '0\n1\n2\n')
  const options = (await run(root, 'cat /proc/self/mountinfo')).trim().split('\n')
  for (const line of options) {
    const [, , , , at, flags = ''] = line.split(' ')
    assert.ok(at === '/machine' || at === '/proc' || /^ro,/.test(flags), line)
    assert.match(flags, /nosuid/, line)
  }
})

test('nobody else sees its mounts, and its file system is made once', { skip }, async () => {
  const get = make()
  const root = await get()
  assert.ok(root)
  await run(root, 'true')
  assert.deepEqual(mountsFor(directory), [])
  assert.equal(await get(), root)
})

test('a program that was replaced is shown as it is now', { skip }, async () => {
  const program = join(directory, 'program')
  copyFileSync('/bin/true', program)
  const get = make([program])
  const first = await get()
  copyFileSync('/bin/echo', `${program}.new`)
  chmodSync(`${program}.new`, 0o755)
  renameSync(`${program}.new`, program)
  const second = await get()
  assert.ok(first && second && first !== second)
  assert.equal(await run(first, `${program} new`), '')
  assert.equal(await run(second, `${program} new`), 'new\n')
})

test('where what is to run does not run there is none', { skip }, async () => {
  const get = ownRoot({
    shows: () => shows,
    log: silentLog,
    tryOut: async (root) => void (await run(root, '/bin/true-and-false')),
  })
  assert.equal(await get(), undefined)
})

async function run(root: OwnRoot, script: string): Promise<string> {
  const uid = isolation.claim({ arch: 'amd64', cpus: 1, memoryMiB: 64 }, 0)
  using inherited = new Inherited()
  inherited.stdio.push('pipe', 'pipe')
  const lodging = { isolation, root, overheadBytes: 0, gid: undefined, network: isolation.network }
  const child = startLodged({ lodging, uid, command: ['/bin/sh', '-c', script], directory: machine, inherited })
  const [said, complaint, exit] = [textOf(child.stdout), textOf(child.stderr), once(child, 'exit')]
  const [code] = await exit
  await isolation.release(uid)
  if (code !== 0) throw new Error(`${script} ended with ${code}: ${await complaint}`)
  return said
}

function textOf(stream: Readable | null): Promise<string> {
  return stream === null ? Promise.resolve('') : text(stream)
}
