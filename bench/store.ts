import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../src/kit/system-clock.ts'
import type { Allocation } from '../src/model/allocation.ts'
import { AllocationId, encodeId, NodeId } from '../src/model/ids.ts'
import type { Slot } from '../src/model/records.ts'
import { openStore } from '../src/store/log-store.ts'
import type { Database } from '../src/store/sqlite/database.ts'
import { openSqliteEngine } from '../src/store/sqlite/sqlite-engine.ts'
import { openStateFile } from '../src/store/sqlite/state-file.ts'
import type { Store } from '../src/store/store.ts'

/**
 * What the store costs on this machine: `node bench/store.ts [directory]`. Next to it, in the same run and on the same
 * disk, bare SQLite appending the same bytes, one durable transaction for each commit: the floor that no store over
 * SQLite gets below with one writer. Prints a table and one line of JSON.
 */

const parent = process.argv[2] ?? tmpdir()
const figures: Record<string, number> = {}

await inDirectory(async (directory) => {
  measureRawSqlite(directory)
})
await inDirectory(async (directory) => {
  await using store = await open(directory)
  await measureSingleWriter(store)
  await measureConcurrentWriters(store, 32)
  await measureThousands(store)
  await measureTwentyThousand(store)
  await measureFollow(store)
})
await inDirectory(measureRestart)

figures['single writer / raw SQLite'] = ratio('single writer, commits/s', 'raw SQLite, commits/s')
figures['32 writers / raw SQLite'] = ratio('32 writers, commits/s', 'raw SQLite, commits/s')
figures['1,000-row transactions / raw SQLite'] = ratio(
  '1,000-row transactions, rows/s',
  'raw SQLite in thousands, rows/s',
)
for (const [name, value] of Object.entries(figures)) console.log(`${name.padEnd(48)}${format(value).padStart(14)}`)
console.log(JSON.stringify(figures))

function measureRawSqlite(directory: string): void {
  using database = openStateFile(join(directory, 'raw.db'))
  database.exec('CREATE TABLE log (idx INTEGER PRIMARY KEY, at INTEGER NOT NULL, changes TEXT NOT NULL) STRICT')
  const commits = 3000
  const latencies: number[] = []
  const began = performance.now()
  for (let index = 1; index <= commits; index++) {
    const start = performance.now()
    const changes = JSON.stringify([['allocations', '', allocation(index)]])
    database.transaction(() => database.run('INSERT INTO log VALUES (?, ?, ?)', index, start | 0, changes))
    latencies.push(performance.now() - start)
  }
  figures['raw SQLite, commits/s'] = perSecond(commits, began)
  figures['raw SQLite, p50 ms'] = percentile(latencies, 50)
  figures['raw SQLite, p99 ms'] = percentile(latencies, 99)
  figures['raw SQLite in thousands, rows/s'] = rawThousands(database, commits)
}

function rawThousands(database: Database, after: number): number {
  const began = performance.now()
  for (let transaction = 1; transaction <= 30; transaction++) {
    const rows = Array.from({ length: 1000 }, (_, n) => ['allocations', '', allocation(transaction * 1000 + n)])
    const changes = JSON.stringify(rows)
    database.transaction(() => database.run('INSERT INTO log VALUES (?, ?, ?)', after + transaction, 0, changes))
  }
  return perSecond(30_000, began)
}

async function measureSingleWriter(store: Store): Promise<void> {
  const commits = 3000
  const latencies: number[] = []
  const began = performance.now()
  for (let n = 0; n < commits; n++) {
    const start = performance.now()
    await store.write((tx) => tx.put('allocations', allocation(n)))
    latencies.push(performance.now() - start)
  }
  figures['single writer, commits/s'] = perSecond(commits, began)
  figures['single writer, p50 ms'] = percentile(latencies, 50)
  figures['single writer, p99 ms'] = percentile(latencies, 99)
}

async function measureConcurrentWriters(store: Store, writers: number): Promise<void> {
  const each = 2000
  const latencies: number[] = []
  const began = performance.now()
  await Promise.all(
    Array.from({ length: writers }, async (_, writer) => {
      for (let n = 0; n < each; n++) {
        const start = performance.now()
        await store.write((tx) => tx.put('allocations', allocation(writer * each + n)))
        latencies.push(performance.now() - start)
      }
    }),
  )
  figures[`${writers} writers, commits/s`] = perSecond(writers * each, began)
  figures[`${writers} writers, p50 ms`] = percentile(latencies, 50)
  figures[`${writers} writers, p99 ms`] = percentile(latencies, 99)
}

async function measureThousands(store: Store): Promise<void> {
  const began = performance.now()
  for (let transaction = 0; transaction < 100; transaction++) {
    await store.write((tx) => {
      for (let n = 0; n < 1000; n++) tx.put('allocations', allocation(transaction * 1000 + n))
    })
  }
  figures['1,000-row transactions, rows/s'] = perSecond(100_000, began)
}

async function measureTwentyThousand(store: Store): Promise<void> {
  const began = performance.now()
  await store.write((tx) => {
    for (let n = 0; n < 20_000; n++) tx.put('allocations', allocation(n))
  })
  figures['one transaction of 20,000 rows, ms'] = performance.now() - began
}

async function measureFollow(store: Store): Promise<void> {
  const last = store.index
  const live = new AbortController()
  let began = 0
  const followed = (async () => {
    for await (const commit of store.follow(last, { signal: live.signal })) if (commit.index === last + 4000) return
  })()
  const writes = Array.from({ length: 4000 }, (_, n) => store.write((tx) => tx.put('allocations', allocation(n))))
  began = performance.now()
  await Promise.all([followed, ...writes])
  figures['follow while written, commits/s'] = perSecond(4000, began)
  let count = 0
  began = performance.now()
  for await (const commit of store.follow(last - 5000, { signal: live.signal })) {
    count++
    if (commit.index === store.index) break
  }
  figures['follow from the log, commits/s'] = perSecond(count, began)
}

async function measureRestart(directory: string): Promise<void> {
  {
    await using store = await open(directory)
    for (let start = 0; start < 100_000; start += 5000) {
      await store.write((tx) => {
        for (let n = start; n < start + 5000; n++) {
          tx.put('allocations', allocation(n))
          tx.put('slots', slot(n))
        }
      })
    }
  }
  const began = performance.now()
  await using _store = await open(directory)
  figures['restart with 100k allocations + 100k slots, ms'] = performance.now() - began
}

async function open(directory: string): Promise<Store & AsyncDisposable> {
  const store = await openStore({
    engine: openSqliteEngine({ directory, clock: systemClock, onError: report }),
    clock: systemClock,
  })
  return Object.assign(store, { [Symbol.asyncDispose]: () => store.close() })
}

function report(error: unknown): void {
  console.error(error)
  process.exitCode = 1
}

/** About 500 bytes of JSON. */
function allocation(n: number): Allocation {
  const at = 1_800_000_000_000 + n
  return {
    id: AllocationId.parse(id(n)),
    job: `web-${n % 1000}`,
    version: 3,
    slot: n % 50,
    node: NodeId.parse(id(n % 1000)),
    generation: 0,
    desired: 'run',
    ports: { http: 20_000 + (n % 12_000), metrics: 20_001 },
    phase: n % 10 === 0 ? 'complete' : 'running',
    healthy: true,
    healthyAt: at,
    tasks: {
      app: { phase: 'running', restarts: 0, startedAt: at, pid: n, healthy: true, message: 'started by the driver' },
      proxy: { phase: 'running', restarts: 1, startedAt: at, pid: n + 1, exitCode: 0, finishedAt: at },
    },
    createdAt: at,
    changedAt: at,
  }
}

function slot(n: number): Slot {
  const failure = {
    allocation: AllocationId.parse(id(n)),
    node: NodeId.parse(id(n % 1000)),
    at: n,
    message: 'it ended',
  }
  return {
    job: `web-${n % 1000}`,
    index: Math.floor(n / 1000),
    allocation: AllocationId.parse(id(n)),
    failures: [failure, failure, failure],
    failed: 0,
    notBefore: 0,
    completedRound: null,
  }
}

function id(n: number): string {
  const bytes = Buffer.alloc(10)
  bytes.writeUInt32BE((n * 2_654_435_761) % 2 ** 32) // spread like random ids
  bytes.writeUInt32BE(n, 4)
  return encodeId(bytes)
}

async function inDirectory(work: (directory: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(parent, 'tutti-bench-'))
  try {
    await work(directory)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

function perSecond(count: number, began: number): number {
  return count / ((performance.now() - began) / 1000)
}

function percentile(values: number[], percent: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * percent) / 100))] ?? 0
}

function ratio(of: string, to: string): number {
  return (figures[of] ?? 0) / (figures[to] ?? 1)
}

function format(value: number): string {
  return value >= 100 ? Math.round(value).toLocaleString('en') : value.toFixed(2)
}
