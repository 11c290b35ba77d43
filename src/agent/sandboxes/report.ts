import type { Clock } from '../../kit/clock.ts'
import { Wakeup } from '../../kit/wakeup.ts'
import type { SandboxId } from '../../model/ids.ts'
import type { SandboxesMessage } from '../../wire/sandbox.ts'
import type { SandboxOffer } from './offer.ts'

/** Denials that wait to be told; beyond these the oldest are dropped. */
const mostDenials = 1000
const mostPerMessage = 10_000
/** How often it says what is measured. */
const measureMs = 30_000

/**
 * Tells the control plane how the node's sandboxes are: all of them when a session begins, then those that changed, and
 * now and then what is measured of them. Only the latest of each is kept, and nothing is lost when a session breaks, for
 * the next begins with all of them.
 */
export async function reportSandboxes(
  offer: SandboxOffer,
  send: (message: SandboxesMessage) => Promise<void>,
  { clock, signal }: { clock: Clock; signal: AbortSignal },
): Promise<void> {
  const { isDue } = offer
  if (!isDue) await send({ type: 'sandboxes', full: true, sandboxes: [], denials: [] })
  const { sandboxes, measure } = await Promise.race([offer.opened, aborted(signal)])
  const wakeup = new Wakeup()
  const changed = new Set<SandboxId>()
  let denials: SandboxesMessage['denials'] = []
  const stop = sandboxes.subscribe((news) => {
    if (news.kind === 'status') changed.add(news.status.id)
    else denials.push({ id: news.id, ...news.denial })
    if (denials.length > mostDenials) denials = denials.slice(-mostDenials)
    wakeup.ring()
  })
  try {
    await send({ type: 'sandboxes', full: isDue, sandboxes: sandboxes.list().slice(0, mostPerMessage), denials: [] })
    let measuredAt = Number.NEGATIVE_INFINITY
    while (!signal.aborted) {
      const dueMs = measuredAt + measureMs - clock.monotonic()
      if (changed.size === 0 && denials.length === 0 && dueMs > 0) {
        await wakeup.next({ clock, withinMs: dueMs, signal })
        continue
      }
      const measures = dueMs > 0 ? undefined : await measure({ signal })
      if (measures) measuredAt = clock.monotonic()
      const ids = new Set(changed)
      const told = denials
      changed.clear()
      denials = []
      const latest = sandboxes.list().filter(({ id }) => ids.has(id))
      await send({
        ...{ type: 'sandboxes', full: false, sandboxes: latest.slice(0, mostPerMessage), denials: told },
        ...(measures ? { measures } : {}),
      })
    }
  } finally {
    stop()
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason)
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}
