import { execFile, execFileSync, spawn } from 'node:child_process'
import { randomFillSync } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, existsSync, openSync, writeFileSync, writeSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { startBlockServer } from '../src/blocks/server/start.ts'
import { systemClock } from '../src/kit/system-clock.ts'
import { systemRandom } from '../src/kit/system-random.ts'
import { BuildId, encodeId } from '../src/model/ids.ts'
import { type Figure, quantile, report, sorted } from './figures.ts'

/**
 * The block server alone, without a guest: its disks beside those of QEMU's own NBD server on a raw file, read by the same program (`qemu-img bench`), and
 * memory of a program that maps an image as a machine does.
 */
const execute = promisify(execFile)
const MiB = 2 ** 20
const diskMiB = 512
const memoryMiB = 256
const dirtyMiB = 100
const rounds = 5
/** One time through the disk. */
const readAll = ['-f', 'raw', '-s', '1M', '-d', '4', '-c', String(diskMiB)]

const directory = await mkdtemp(join(tmpdir(), 'tutti-bench-'))
const signal = AbortSignal.timeout(600_000)
const server = await startBlockServer({ directory, clock: systemClock, signal })
try {
  const figures = [...(await measureDisk()), ...(await measureMemory())]
  report('server', figures)
} finally {
  await server.ask('stop', {}, { signal })
  await rm(directory, { recursive: true, force: true })
}
process.exit()

async function measureDisk(): Promise<Figure[]> {
  const raw = join(directory, 'raw')
  const fd = openSync(raw, 'w')
  const bytes = randomFillSync(Buffer.alloc(4 * MiB))
  for (let at = 0; at < diskMiB; at += 4) writeSync(fd, bytes, 0, bytes.length, at * MiB)
  closeSync(fd)
  const { socket } = await server.ask('openDisk', { name: 'first', from: { size: diskMiB * MiB } }, { signal })
  await execute('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', raw, uri(socket)])
  const build = newBuild()
  const { epoch } = await server.ask('cutDisk', { name: 'first' }, { signal })
  const stored = await timed(() => server.ask('store', storeOf(build, 'first', epoch), { signal }))
  const based = await server.ask('openDisk', { name: 'second', from: { build } }, { signal })
  const cold = await timed(() => execute('qemu-img', ['bench', ...readAll, uri(based.socket)]))
  const figures: Figure[] = [
    { what: `store ${diskMiB} MiB of a disk`, reached: stored, unit: 'ms' },
    { what: 'read it, every chunk for the first time', reached: (diskMiB / cold) * 1000, unit: 'MiB/s' },
  ]
  const plain = join(directory, 'plain')
  const other = spawn('qemu-nbd', ['-r', '-t', '-f', 'raw', '-k', plain, raw], { stdio: 'ignore' })
  while (!existsSync(plain)) await sleep(10)
  const kinds: [string, string[]][] = [
    ['sequential read, 1 MiB', ['-s', '1M', '-d', '4', '-c', '2000']],
    ['sequential read, 128 KiB', ['-s', '128K', '-d', '8', '-c', '8000']],
    ['scattered read, 4 KiB, one at a time', ['-s', '4096', '-S', '37748736', '-d', '1', '-c', '20000']],
    ['scattered read, 4 KiB, 16 at once', ['-s', '4096', '-S', '37748736', '-d', '16', '-c', '40000']],
  ]
  for (const [what, args] of kinds) {
    const onFile = await fastest(['-f', 'raw', ...args, uri(plain)])
    for (const [where, from] of [
      ['a build', based.socket],
      ['an overlay', socket],
    ] as const) {
      const onServer = await fastest(['-f', 'raw', ...args, uri(from)])
      figures.push({
        what: `${what}, of ${where}, beside qemu-nbd on a raw file`,
        reached: onFile / onServer,
        unit: 'ratio',
        better: 'more',
      })
    }
  }
  other.kill()
  for (const name of ['first', 'second']) await server.ask('closeDisk', { name }, { signal })
  return figures
}

async function fastest(args: string[]): Promise<number> {
  const times: number[] = []
  for (let round = 0; round < 3; round += 1) times.push(await timed(() => execute('qemu-img', ['bench', ...args])))
  return Math.min(...times)
}

async function measureMemory(): Promise<Figure[]> {
  const size = memoryMiB * MiB
  const program = makeMapper(size)
  const { path } = await server.ask('newMemory', { name: 'boot', size }, { signal })
  const template = newBuild()
  const booted = await startMapper(program, path, 'shared', memoryMiB / 2)
  const ask = { capture: 'boot', pid: booted.pid, path, build: null, size }
  await server.ask('captureMemory', ask, { signal })
  await storeMemory(template, null, 'boot')
  booted.end()
  await server.ask('closeMemory', { name: 'boot' }, { signal })
  const opened: number[] = []
  const captured: number[] = []
  const stored: number[] = []
  const applied: number[] = []
  for (let round = 0; round < rounds; round += 1) {
    let memory = ''
    const holder = `h${round}`
    opened.push(
      await timed(async () => {
        memory = (await server.ask('openMemory', { build: template, holder }, { signal })).path
      }),
    )
    const machine = await startMapper(program, memory, 'private', dirtyMiB)
    const request = { capture: 'c', pid: machine.pid, path: memory, build: template, size }
    captured.push(await timed(() => server.ask('captureMemory', request, { signal })))
    const paused = newBuild()
    stored.push(await timed(() => storeMemory(paused, template, 'c')))
    machine.end()
    const resumed = await startMapper(program, memory, 'private', 0)
    const apply = { pid: resumed.pid, path: memory, size, base: template, build: paused }
    applied.push(await timed(() => server.ask('applyMemory', apply, { signal })))
    resumed.end()
    await server.ask('releaseMemory', { build: template, holder }, { signal })
  }
  const p50 = (values: number[]) => quantile(sorted(values), 0.5)
  return [
    { what: `open a memory of ${memoryMiB} MiB, half of it zeros`, reached: opened[0] ?? Number.NaN, unit: 'ms' },
    { what: `capture ${dirtyMiB} MiB, p50`, reached: p50(captured), unit: 'ms', asked: 60, better: 'less' },
    { what: `store them, p50`, reached: p50(stored), unit: 'ms', asked: 400, better: 'less' },
    { what: `put them back, p50`, reached: p50(applied), unit: 'ms', asked: 70, better: 'less' },
  ]
}

async function storeMemory(build: BuildId, parent: BuildId | null, capture: string): Promise<void> {
  const devices = join(directory, 'devices')
  writeFileSync(devices, 'devices')
  await server.ask('openDisk', { name: 'empty', from: { size: MiB } }, { signal })
  const { epoch } = await server.ask('cutDisk', { name: 'empty' }, { signal })
  const snapshot = { capture, devices, compat: '', guestAgent: '', channelToken: '' }
  await server.ask('store', { ...storeOf(build, 'empty', epoch), parent, snapshot }, { signal })
}

function storeOf(build: BuildId, name: string, epoch: number) {
  return {
    build,
    reason: 'pause' as const,
    parent: null as BuildId | null,
    createdAt: 0,
    machine: { arch: 'amd64' as const, cpus: 1, memoryMiB },
    defaults: { env: {}, user: 'root', cwd: '/' },
    disk: { name, epoch },
    snapshot: null,
    reference: `bench/${build}`,
  }
}

/** Writes the given number of MiB at the end of what it maps, half of it incompressible, and waits for its end. */
function makeMapper(size: number): string {
  const binary = join(directory, 'mapper')
  writeFileSync(
    `${binary}.c`,
    `#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv) {
  unsigned long size = ${size}ul, count = atol(argv[3]) << 20, at;
  int fd = open(argv[1], O_RDWR);
  unsigned char *m = mmap(0, size, PROT_READ | PROT_WRITE, argv[2][0] == 's' ? MAP_SHARED : MAP_PRIVATE, fd, 0);
  if (m == MAP_FAILED) return 1;
  srandom(getpid());
  for (at = size - count; at < size; at += 4) *(unsigned *)(m + at) = (at & 4096) ? random() : at >> 12;
  puts("ready"); fflush(stdout);
  return getchar() == 0;
}`,
  )
  execFileSync('cc', ['-O2', '-o', binary, `${binary}.c`])
  return binary
}

async function startMapper(program: string, path: string, how: 'shared' | 'private', count: number) {
  const child = spawn(program, [path, how, String(count)], { stdio: ['pipe', 'pipe', 'inherit'] })
  await once(child.stdout, 'data')
  return { pid: child.pid as number, end: () => child.stdin.end() }
}

function newBuild(): BuildId {
  return BuildId.parse(encodeId(systemRandom.bytes(10)))
}

function uri(socket: string): string {
  return `nbd+unix:///?socket=${socket}`
}

async function timed(work: () => unknown): Promise<number> {
  const from = performance.now()
  await work()
  return performance.now() - from
}
