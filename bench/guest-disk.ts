import { execFile } from 'node:child_process'
import { randomFillSync } from 'node:crypto'
import { mkdtemp, open, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { startBlockServer } from '../src/blocks/server/start.ts'
import type { GuestChannel } from '../src/guest/channel.ts'
import { systemClock } from '../src/kit/system-clock.ts'
import { systemRandom } from '../src/kit/system-random.ts'
import { BuildId, encodeId } from '../src/model/ids.ts'
import { lackingForVm, startGuestVm } from '../test/fixtures/guest-vm.ts'
import { type Figure, report, sorted } from './figures.ts'

/**
 * A disk as the guest sees it: the block server's export of a build beside a file with the same bytes that QEMU opens
 * itself, in one emulated machine, read in turns. The file is opened twice, once as QEMU does by default (through the
 * page cache, as the block server's own files are) and once past it. Usage: node bench/guest-disk.ts [rounds]
 */
const rounds = Number(process.argv[2] ?? 7)
const MiB = 2 ** 20
const diskMiB = 256
const execute = promisify(execFile)

const lacking = await lackingForVm()
if (lacking !== undefined) throw new Error(`this machine cannot run it: ${lacking}`)
const directory = await mkdtemp(join(tmpdir(), 'tutti-bench-'))
const signal = AbortSignal.timeout(1_200_000)
const server = await startBlockServer({ directory, clock: systemClock, signal })
const figures: Figure[] = []
try {
  const file = join(directory, 'raw')
  await writeBytes(file)
  const { manifest } = await server.ask('importDisk', importOf(file), { signal })
  const { socket } = await server.ask('openDisk', { name: 'guest', from: { build: manifest.id } }, { signal })
  const address = { type: 'unix', path: socket }
  const served = { driver: 'nbd', server: address, 'reconnect-delay': 30, discard: 'unmap' }
  const raw = { driver: 'raw', discard: 'unmap', 'detect-zeroes': 'unmap' }
  const onFile = { driver: 'file', filename: file, discard: 'unmap', locking: 'off' }
  const past = { ...onFile, cache: { direct: true }, aio: 'native' }
  const disks = [served, onFile, past].map((node) => ({ ...raw, file: node }))
  await using vm = await startGuestVm({ files: { '/usr/bin/disk-probe': await probe() }, disks })
  await using guest = await vm.connect()
  await measure(guest)
} finally {
  await server.ask('stop', {}, { signal })
  await rm(directory, { recursive: true, force: true, maxRetries: 20 })
}
report('guest-disk', figures)
process.exit()

async function measure(guest: GuestChannel): Promise<void> {
  const sequential = ['read', MiB, diskMiB, 'ordered'] as const
  const cold = await timed(guest, '/dev/vdb', sequential)
  figures.push({ what: 'sequential read, 1 MiB, every chunk for the first time', reached: rate(cold), unit: 'MiB/s' })
  const kinds = [
    ['sequential read, 1 MiB', sequential, 0.8],
    ['sequential read, 128 KiB', ['read', 128 * 1024, diskMiB * 4, 'ordered'], undefined],
    ['scattered read, 4 KiB', ['read', 4096, 1000, 'scattered'], 1],
    ['sequential write, 1 MiB', ['write', MiB, 64, 'ordered'], undefined],
    ['scattered write, 4 KiB', ['write', 4096, 1000, 'scattered'], undefined],
    ['scattered write, 4 KiB, each made safe', ['flush', 4096, 100, 'scattered'], undefined],
  ] as const
  for (const [what, work, asked] of kinds) {
    const [ours, cached, direct] = await inTurns(guest, work)
    const each = ours / work[2]
    figures.push({ what: `${what}, one`, reached: each, unit: 'us' })
    const ask = asked === undefined ? {} : { asked }
    figures.push({ what: `${what}, beside a file`, reached: cached / ours, unit: 'ratio', better: 'more', ...ask })
    figures.push({
      what: `${what}, beside a file opened past the cache`,
      reached: direct / ours,
      unit: 'ratio',
      better: 'more',
    })
  }
}

type Work = readonly ['read' | 'write' | 'flush', number, number, 'ordered' | 'scattered']

/** Medians of all rounds, for each of the three disks. */
async function inTurns(guest: GuestChannel, work: Work): Promise<[number, number, number]> {
  const times = [[], [], []] as [number[], number[], number[]]
  for (let round = 0; round < rounds; round += 1)
    for (const [index, device] of ['/dev/vdb', '/dev/vdc', '/dev/vdd'].entries())
      times[index]?.push(await timed(guest, device, work))
  const median = (values: number[]) => sorted(values)[Math.floor(values.length / 2)] ?? Number.NaN
  return [median(times[0]), median(times[1]), median(times[2])]
}

/** Microseconds, by the guest's clock. */
async function timed(guest: GuestChannel, device: string, [kind, bytes, count, order]: Work): Promise<number> {
  const command = ['/usr/bin/disk-probe', kind, device, String(bytes), String(count), order]
  const execution = await guest.exec({ command, env: {} }, { signal })
  execution.stdin.end()
  let said = ''
  execution.stdout.on('data', (piece) => {
    said += piece
  })
  execution.stderr?.on('data', (piece) => {
    said += piece
  })
  const { code } = await execution.exited
  if (code !== 0) throw new Error(`the guest could not ${kind} ${device}: ${said}`)
  return Number(said)
}

function rate(us: number): number {
  return diskMiB / (us / 1e6)
}

/** Nothing in it is zero, or twice there within a chunk. */
async function writeBytes(path: string): Promise<void> {
  await using file = await open(path, 'w')
  for (let at = 0; at < diskMiB; at += 4) await file.write(randomFillSync(Buffer.alloc(4 * MiB)), 0, 4 * MiB, at * MiB)
}

async function probe(): Promise<Buffer> {
  const program = join(directory, 'disk-probe')
  const source = new URL('guest-disk.c', import.meta.url).pathname
  await execute('musl-gcc', ['-static', '-O2', '-s', '-o', program, source])
  return readFile(program)
}

function importOf(file: string) {
  return {
    file,
    build: BuildId.parse(encodeId(systemRandom.bytes(10))),
    createdAt: systemClock.now(),
    machine: { arch: process.arch === 'arm64' ? ('arm64' as const) : ('amd64' as const), cpus: 1, memoryMiB: 160 },
    defaults: { env: {}, user: 'root', cwd: '/' },
    reference: 'bench/disk',
  }
}
