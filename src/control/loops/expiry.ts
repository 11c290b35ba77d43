import { Wakeup } from '../../kit/wakeup.ts'
import { Fault, sentence } from '../../model/fault.ts'
import { isActive, type Sandbox } from '../../model/sandbox.ts'
import type { Control } from '../control.ts'
import { system } from '../sandboxes/kill.ts'
import { tell } from '../sandboxes/rows.ts'
import type { SandboxControl } from '../sandboxes/sandboxes.ts'

const longestSleepMs = 60_000
/** A sandbox whose time is up and that cannot be paused gets this much more, and is then tried again. */
const graceMs = 30_000
/** One that is on its way somewhere is looked at again after this. */
const againMs = 1000

/** Kills or pauses sandboxes whose time is up. The times are in the rows, so a restart loses none. */
export async function watchExpiry(
  control: Control,
  { sandboxes, signal }: { sandboxes: SandboxControl; signal: AbortSignal },
): Promise<void> {
  const { store, clock } = control
  const wakeup = new Wakeup()
  /** None is due before. All are looked at only when it comes: most never live that long. */
  let next = clock.now()
  const stop = store.subscribe(({ changes }) => {
    for (const { table, row } of changes) {
      if (table !== 'sandboxes' || !row || row.expiresAt === null || row.expiresAt >= next) continue
      next = row.expiresAt
      wakeup.ring()
    }
  })
  signal.addEventListener('abort', stop, { once: true })
  while (!signal.aborted) {
    const wait = next - clock.now()
    if (wait > 0) {
      await wakeup.next({ clock, withinMs: Math.min(wait, longestSleepMs), signal })
      continue
    }
    const { due, later } = look(control)
    next = Math.max(later, clock.now() + 1)
    if (due.length > 0) {
      next = Math.min(next, clock.now() + againMs)
      for (const row of due) void end(control, sandboxes, row)
    }
  }
}

function look({ store, clock }: Control): { due: Sandbox[]; later: number } {
  const now = clock.now()
  let later = now + longestSleepMs
  const due: Sandbox[] = []
  for (const phase of ['creating', 'running'] as const) {
    for (const row of store.view.by('activeSandboxes', phase)) {
      if (row.expiresAt === null) continue
      if (row.expiresAt > now) later = Math.min(later, row.expiresAt)
      else due.push(row)
    }
  }
  return { due, later }
}

async function end(control: Control, sandboxes: SandboxControl, row: Sandbox): Promise<void> {
  // Whatever is being done to it is done first; it is looked at again.
  if (sandboxes.desk.busy.has(row.id) || row.phase !== 'running') return
  try {
    if (row.onTimeout === 'kill') await sandboxes.kill(row.id, { by: system, reason: 'its time was up' })
    else await sandboxes.pause(row.id, { by: system })
  } catch (error) {
    if (sandboxes.desk.signal.aborted) return
    await grant(control, row, error).catch((failure: unknown) =>
      control.log.error({ err: failure, sandbox: row.id }, 'a sandbox whose time is up could not be given more'),
    )
  }
}

async function grant({ store }: Control, { id }: Sandbox, error: unknown): Promise<void> {
  await store.write((tx) => {
    const row = tx.get('sandboxes', id)
    if (!row || !isActive(row) || row.expiresAt === null) return
    tx.put('sandboxes', { ...row, expiresAt: tx.now + graceMs })
    const words = `the time of sandbox ${id} is up, but it could not be paused: ${sentence(Fault.from(error))}`
    tell(tx, row, 'pause-failed', words, 'warning')
  })
}
