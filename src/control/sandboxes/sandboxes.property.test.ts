import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { seededRandom } from '../../kit/random.ts'
import type { SteppedClock } from '../../kit/stepped-clock.ts'
import { Fault } from '../../model/fault.ts'
import type { SandboxId } from '../../model/ids.ts'
import { holdsRoom, isActive, nextPhases, type SandboxPhase } from '../../model/sandbox.ts'
import type { Commit } from '../../store/store.ts'
import { verifyIndexes } from '../../store/verify.ts'
import { leaseMs } from '../../wire/messages.ts'
import { openSandboxWorld } from './testing.ts'

const steps = [
  'create',
  'pause',
  'resume',
  'fork',
  'snapshot',
  'kill',
  'vmm dies',
  'node refuses',
  'node is well',
  'link breaks',
  'link is back',
  'control crashes',
  'time passes',
] as const

const wanted = {
  from: 'base',
  metadata: {},
  env: { A: '1' },
  cpu: 0,
  timeoutMs: 60_000,
  autoResume: false,
  egress: { mode: 'deny' as const },
}

test('whatever happens in whatever order: phases follow their table, no node holds more than it has, and in the end both sides agree', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.constantFrom(...steps), fc.nat(9)), { minLength: 10, maxLength: 60 }),
      fc.nat(),
      async (script, seed) => {
        await using world = await openSandboxWorld({ seed: String(seed) })
        const clock = world.clock as SteppedClock
        const random = seededRandom(`faults ${seed}`)
        // Room for five that run.
        const node = await world.addNode('a', { memory: 5 * 64 * 2 ** 20 })
        await world.addTemplate('base', [node])
        const check = ({ changes }: Commit) => {
          const { view } = world.control.store
          for (const { table, row, before } of changes) {
            if (table !== 'sandboxes' || !row) continue
            if (before && before.phase !== row.phase) assertReachable(before.phase, row.phase)
            const held = [...view.by('sandboxesHoldingRoom', row.node)].filter(holdsRoom)
            assert.ok(held.length <= 5 || held.length <= adopted(world), `${held.length} hold room`)
          }
        }
        world.control.store.subscribe(check)
        const { signal } = new AbortController()
        const asked = { by: 'test', signal }
        for (const [step, pick] of script) {
          const rows = [...world.control.store.view.all('sandboxes')].filter(isActive)
          const id = rows[pick % Math.max(1, rows.length)]?.id ?? ('0'.repeat(16) as SandboxId)
          const { sandboxes } = world
          const verbs: Record<(typeof steps)[number], () => Promise<unknown>> = {
            create: () => sandboxes.create({ ...wanted, onTimeout: pick % 2 === 0 ? 'kill' : 'pause' }, asked),
            pause: () => sandboxes.pause(id, asked),
            resume: () => sandboxes.resume(id, asked),
            fork: () => sandboxes.fork(id, { count: 1 + (pick % 3), env: {} }, asked),
            snapshot: () => sandboxes.snapshot(id, {}, asked),
            kill: () => sandboxes.kill(id, asked),
            'vmm dies': () => node.crash(id, 'it died'),
            'node refuses': async () => {
              const fail = () => {
                if (random.fraction() < 0.5) throw new Fault('unavailable', 'it is unwell')
              }
              if (pick % 2 === 0) node.before = fail
              else node.after = fail
            },
            'node is well': async () => {
              node.before = () => {}
              node.after = () => {}
            },
            'link breaks': () => node.lostLink(),
            'link is back': async () => {
              await node.lostLink()
              await node.connect()
            },
            'control crashes': async () => {
              await world.restart()
              world.control.store.subscribe(check)
            },
            'time passes': async () => {},
          }
          verbs[step]().catch((error: unknown) => assert.ok(Fault.from(error).code !== 'internal', String(error)))
          await clock.advance(step === 'time passes' ? pick * 10_000 : pick)
        }
        node.before = () => {}
        node.after = () => {}
        await node.lostLink()
        await node.connect()
        await clock.advance(leaseMs)
        await node.lostLink()
        await node.connect()
        await clock.advance(10_000)
        const { view } = world.control.store
        verifyIndexes(view)
        const rows = [...view.by('sandboxesByNode', node.id)]
        assert.equal(view.count('sandboxEnvironments'), rows.length)
        const known = rows.map((row) => `${row.id} ${row.phase}`).sort()
        const there = [...node.sandboxes]
          .filter(([, { phase }]) => phase === 'running' || phase === 'paused')
          .map(([id, { phase }]) => `${id} ${phase}`)
          .sort()
        assert.deepEqual(known, there)
        assert.equal(world.sandboxes.desk.busy.size, 0)
        assert.equal(world.sandboxes.desk.starts.load(node.id), 0)
      },
    ),
    { numRuns: 60 },
  )
})

/** One commit may hold several steps of the table. */
function assertReachable(from: SandboxPhase, to: SandboxPhase): void {
  const seen = new Set<SandboxPhase>([from])
  for (const phase of seen) for (const next of nextPhases[phase]) seen.add(next)
  assert.ok(seen.has(to), `${from} became ${to}`)
}

/** What a node goes on with by itself is taken as it is, even where it would not have been placed. */
function adopted(world: Awaited<ReturnType<typeof openSandboxWorld>>): number {
  return [...world.control.store.view.all('events')].filter(({ kind }) => kind === 'sandbox.resumed').length + 5
}
