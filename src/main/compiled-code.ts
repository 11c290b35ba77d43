import { flushCompileCache } from 'node:module'
import { systemClock } from '../kit/system-clock.ts'

/** Long enough for everything that is done often to have been done once, and so compiled. */
const warmAfterMs = 15_000

/**
 * Node keeps compiled code when a process ends in good order, which control planes and agents seldom do. So it is kept
 * once they are warm, and the next one begins warm. That takes part of a second, once for each version of the code.
 */
export function keepCompiledCode({ signal }: { signal: AbortSignal }): void {
  systemClock.sleep(warmAfterMs, { signal }).then(
    () => flushCompileCache(),
    () => {},
  )
}
