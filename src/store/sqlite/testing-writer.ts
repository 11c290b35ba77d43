import { writeSync } from 'node:fs'
import { systemClock } from '../../kit/system-clock.ts'
import { openStore } from '../log-store.ts'
import { openSqliteEngine } from './sqlite-engine.ts'

/** A process to be killed: puts timers numbered from 1 for ever and prints each number once it is durable. */
const store = await openStore({
  engine: openSqliteEngine({
    directory: process.argv[2] ?? '',
    clock: systemClock,
    checkpointAfter: { entries: 5, bytes: 100_000 },
    kept: { entries: 20, bytes: 1_000_000 },
  }),
  clock: systemClock,
})

for (let next = store.view.count('timers') + 1; ; next += 4) {
  const writes = [0, 1, 2, 3].map(async (offset) => {
    const number = next + offset
    await store.write((tx) => tx.put('timers', { id: `t${number}`, at: number, job: 'web', reason: 'x'.repeat(200) }))
    writeSync(1, `${number}\n`)
  })
  await Promise.all(writes)
}
