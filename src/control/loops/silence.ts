import { loop } from '../../kit/loop.ts'
import { Wakeup } from '../../kit/wakeup.ts'
import type { Control } from '../control.ts'
import type { Sessions } from '../sessions/sessions.ts'

/** Ends sessions whose agent has said nothing for a whole lease: a cut network does not tell. */
export async function watchSilence(
  { clock, log }: Control,
  { sessions, signal }: { sessions: Sessions; signal: AbortSignal },
): Promise<void> {
  await loop({
    clock,
    wakeup: new Wakeup(),
    everyMs: 1000,
    signal,
    onError: (error) => log.error({ err: error }, 'silent sessions could not be closed'),
    pass: async () => sessions.closeSilent(),
  })
}
