import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { CgroupsV1, CgroupsV2, findCgroups } from './cgroups.ts'
import { systemClock } from './system-clock.ts'

/** A directory in place of the kernel's: shows what is written where. */
async function tree(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-cgroups-'))
  t.after(() => rm(directory, { recursive: true, force: true }))
  return directory
}

const limits = { memory: 64 * 2 ** 20, cores: 1.5, pids: 100 }

test('limits are written the way of version 2', async (t) => {
  const base = await tree(t)
  const [door] = new CgroupsV2(base).make('a.1', limits)
  assert.equal(door, join(base, 'a.1/cgroup.procs'))
  const read = (file: string) => readFileSync(join(base, 'a.1', file), 'utf8')
  assert.deepEqual(['memory.max', 'memory.swap.max', 'cpu.weight', 'pids.max'].map(read), [
    String(64 * 2 ** 20),
    '0',
    '150',
    '100',
  ])
})

test('limits are written the way of version 1', async (t) => {
  const root = await tree(t)
  const doors = new CgroupsV1(root).make('a.1', limits)
  assert.equal(doors.length, 4)
  const read = (file: string) => readFileSync(join(root, file), 'utf8')
  assert.equal(read('memory/tutti/a.1/memory.limit_in_bytes'), String(64 * 2 ** 20))
  assert.equal(read('cpu/tutti/a.1/cpu.shares'), '1536')
  assert.equal(read('pids/tutti/a.1/pids.max'), '100')
})

test('a task without a reservation gets little, and no limit that was not asked for', async (t) => {
  const base = await tree(t)
  new CgroupsV2(base).make('a.1', { memory: 0, cores: 0, pids: 0 })
  assert.equal(readFileSync(join(base, 'a.1/cpu.weight'), 'utf8'), '10')
  assert.ok(!existsSync(join(base, 'a.1/memory.max')) && !existsSync(join(base, 'a.1/pids.max')))
})

test('usage and kills for lack of memory are read the way of version 2', async (t) => {
  const base = await tree(t)
  const groups = new CgroupsV2(base)
  groups.make('a.1', limits)
  assert.equal(groups.usage('a.1'), undefined)
  const write = (file: string, content: string) => writeFileSync(join(base, 'a.1', file), content)
  write('memory.current', '4096\n')
  write('cpu.stat', 'usage_usec 2500000\nuser_usec 1\n')
  write('pids.current', '3\n')
  write('memory.events', 'low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\n')
  assert.deepEqual(groups.usage('a.1'), { memory: 4096, cpuMs: 2500, pids: 3 })
  assert.equal(groups.outOfMemoryKills('a.1'), 1)
})

test('a process of another namespace, shown as 0, is never among those to end', async (t) => {
  const base = await tree(t)
  const groups = new CgroupsV2(base)
  groups.make('a.1', limits)
  writeFileSync(join(base, 'a.1/cgroup.procs'), '0\n12\n')
  assert.deepEqual(groups.processes('a.1'), [12])
})

const unified = ['/sys/fs/cgroup', '/sys/fs/cgroup/unified'].find((path) =>
  existsSync(join(path, 'cgroup.controllers')),
)
const writable = unified !== undefined && process.getuid?.() === 0
test('the kernel ends a whole group of version 2', writable ? {} : { skip: 'needs root and cgroup v2' }, async (t) => {
  const base = join(unified ?? '', `tutti-test-${process.pid}`)
  mkdirSync(base)
  mkdirSync(join(base, 'a.1'))
  const groups = new CgroupsV2(base)
  t.after(() => {
    groups.remove('a.1')
    rmdirSync(base)
  })
  const script = 'echo 0 > "$1"; sleep 1000 & sleep 1000 & echo up; wait'
  const child = spawn('sh', ['-c', script, 'sh', ...groups.doors('a.1')], { stdio: ['ignore', 'pipe', 'ignore'] })
  const ended = once(child, 'exit')
  await once(child.stdout, 'data')
  assert.equal(groups.processes('a.1').length, 3)
  groups.kill('a.1')
  assert.equal((await ended)[1], 'SIGKILL')
  while (!groups.remove('a.1')) await systemClock.sleep(5)
  assert.deepEqual(groups.list('a.'), [])
})

test('a system without control groups says so', async (t) => {
  const none = findCgroups(join(await tree(t), 'nothing/here'))
  assert.equal(none.version === 'none' ? typeof none.lacking : 'found some', 'string')
})
