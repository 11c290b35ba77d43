import type { BlockServer } from '../../blocks/server/protocol.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import { formatSize } from '../../model/units.ts'

const everyMs = 3_600_000

/** Frees what no build with a name needs any more, now and then; what is unreachable for a day goes. */
export async function collectBuilds(
  blocks: BlockServer,
  { clock, log, signal }: { clock: Clock; log: Log; signal: AbortSignal },
): Promise<void> {
  while (!signal.aborted) {
    await clock.sleep(everyMs, { signal }).catch(() => {})
    if (signal.aborted) return
    try {
      const { removed, problems } = await blocks.ask('collect', {}, { signal })
      if (removed.bytes > 0) log.info({}, `builds that nobody needs gave back ${formatSize(removed.bytes)}`)
      if (problems.length > 0) log.warn({ problems }, 'not all builds could be looked at, so packs are kept')
    } catch (error) {
      if (!signal.aborted) log.warn({ err: error }, 'builds that nobody needs could not be collected')
    }
  }
}
