import { loop } from '../../kit/loop.ts'
import { Wakeup } from '../../kit/wakeup.ts'
import { leaseMs } from '../../wire/messages.ts'
import { loseNode } from '../actions/node-session.ts'
import type { Control } from '../control.ts'

/** Declares nodes lost whose session ended a whole lease ago. */
export async function watchLeases(control: Control, { signal }: { signal: AbortSignal }): Promise<void> {
  const { store, clock, log } = control
  await loop({
    clock,
    wakeup: new Wakeup(),
    everyMs: 1000,
    signal,
    onError: (error) => log.error({ err: error }, 'lost nodes could not be recorded'),
    pass: async () => {
      const due = clock.now() - leaseMs
      for (const node of store.view.all('nodes')) {
        if (node.phase === 'silent' && node.since <= due) await loseNode(control, node.id, node.since)
      }
    },
  })
}
