import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../../src/kit/system-clock.ts'
import { openSqliteEngine } from '../../src/store/sqlite/sqlite-engine.ts'
import { type EnginePlace, engineConformance } from './engine.ts'

engineConformance('sqlite', async () => sqlitePlace(await mkdtemp(join(tmpdir(), 'tutti-engine-'))))

function sqlitePlace(directory: string): EnginePlace {
  return {
    open: ({ keptEntries }) =>
      openSqliteEngine({
        directory,
        clock: systemClock,
        checkpointAfter: { entries: keptEntries, bytes: 1_000_000 },
        kept: { entries: keptEntries, bytes: 100_000_000 },
        onError: (error) => {
          throw error // the work behind the log must not fail in these tests
        },
      }),
    crashed: async () => {
      const copy = await mkdtemp(join(tmpdir(), 'tutti-engine-'))
      await cp(directory, copy, { recursive: true, filter: (path) => !path.endsWith('-shm') })
      return sqlitePlace(copy)
    },
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }),
  }
}
