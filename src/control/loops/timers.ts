import { Wakeup } from '../../kit/wakeup.ts'
import type { Control } from '../control.ts'
import { markDirty } from '../marks.ts'

const longestSleepMs = 60_000
const retryMs = 1000

/** Marks a job for planning when one of its timers is due. Timers are rows, so a restart loses none. */
export async function watchTimers(control: Control, { signal }: { signal: AbortSignal }): Promise<void> {
  const { store, clock, log } = control
  const wakeup = new Wakeup()
  const stop = store.subscribe((commit) => {
    if (commit.changes.some((change) => change.table === 'timers')) wakeup.ring()
  })
  signal.addEventListener('abort', stop, { once: true })
  while (!signal.aborted) {
    let next = clock.now() + longestSleepMs
    for (const timer of store.view.all('timers')) next = Math.min(next, timer.at)
    const wait = Math.max(0, next - clock.now())
    if (wait > 0) await wakeup.next({ clock, withinMs: wait, signal })
    if (signal.aborted) return
    await fire(control).catch(async (error: unknown) => {
      log.error({ err: error }, 'due timers could not be recorded')
      await clock.sleep(retryMs, { signal }).catch(() => {})
    })
  }
}

async function fire({ store, clock }: Control): Promise<void> {
  const now = clock.now()
  const due = [...store.view.all('timers')].filter((timer) => timer.at <= now)
  if (due.length === 0) return
  await store.write((tx) => {
    for (const timer of due) {
      if (tx.get('timers', timer.id) !== timer) continue
      tx.delete('timers', timer.id)
      if (tx.get('jobs', timer.job)) markDirty(tx, timer.job, timer.reason)
    }
  })
}
