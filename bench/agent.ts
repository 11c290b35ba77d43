import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startAgent } from '../src/agent/agent.ts'
import { SqliteLedger } from '../src/agent/ledger/sqlite.ts'
import { TestMachine } from '../src/agent/test-driver.ts'
import { assignmentOf, jobOf, newId, TestControl, testFacts } from '../src/agent/testing.ts'
import { openWorkspace } from '../src/agent/workspace/disk.ts'
import { silentLog } from '../src/kit/log.ts'
import { systemClock } from '../src/kit/system-clock.ts'
import { systemRandom } from '../src/kit/system-random.ts'
import type { NodeId } from '../src/model/ids.ts'

/**
 * How many one-task batch allocations one agent brings to their end: from the assignment to the noted report, with a
 * real ledger on disk and a driver whose tasks end at once. Usage: node bench/agent.ts [allocations] [per message]
 */
const total = Number(process.argv[2] ?? 20_000)
const perMessage = Number(process.argv[3] ?? 500)

const top = await mkdtemp(join(tmpdir(), 'tutti-bench-'))
const control = new TestControl()
const agent = await startAgent({
  clock: systemClock,
  random: systemRandom,
  log: silentLog,
  ledger: SqliteLedger.open(join(top, 'ledger.sqlite'), { now: systemClock.now() }),
  workspace: openWorkspace({ root: top, clock: systemClock }),
  drivers: [new TestMachine({ remembering: false }).driver(systemClock)],
  probe: { http: async () => {}, tcp: async () => {} },
  node: { id: newId() as string as NodeId, name: 'bench' },
  facts: async () => testFacts,
  dial: control.dial,
})
const until = async (condition: () => boolean) => {
  while (!condition()) await systemClock.sleep(2)
}
try {
  await until(() => control.taken > 0)
  const job = jobOf({ type: 'batch', tasks: { main: { driver: 'fake', config: { ms: 0 } } } })
  const begun = systemClock.monotonic()
  const cpu = process.cpuUsage()
  let done = 0
  while (done < total) {
    const assignments = Array.from({ length: perMessage }, () => assignmentOf(job))
    const ids = assignments.map(({ id }) => id)
    control.put(job, ...assignments)
    await until(() => ids.every((id) => control.phase(id) === 'complete' && agent.allocations.get(id)?.record.noted))
    control.remove(...ids)
    for (const id of ids) control.statuses.delete(id)
    done += perMessage
  }
  await until(() => agent.allocations.count === 0)
  const seconds = (systemClock.monotonic() - begun) / 1000
  const { user, system } = process.cpuUsage(cpu)
  const used = (user + system) / 1e6
  console.log(
    `${done} allocations in ${seconds.toFixed(2)} s: ${Math.round(done / seconds)} a second, ` +
      `${((used / done) * 1e6).toFixed(0)} µs of CPU each, ${Math.round((used / seconds) * 100)} % of a core`,
  )
} finally {
  await agent.close()
  await rm(top, { recursive: true, force: true })
}
