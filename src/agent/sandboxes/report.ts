import type { Clock } from '../../kit/clock.ts'
import { Wakeup } from '../../kit/wakeup.ts'
import type { SandboxId } from '../../model/ids.ts'
import type { SandboxesMessage } from '../../wire/sandbox.ts'
import type { SandboxOffer } from './offer.ts'

/** Denials that wait to be told; beyond these the oldest are dropped. */
const mostDenials = 1000
const mostPerMessage = 10_000
const idleMs = 60_000

/**
 * Tells the control plane how the node's sandboxes are: all of them when a session begins, then those that changed. Only
 * the latest of each is kept, and nothing is lost when a session breaks, for the next begins with all of them.
 */
export async function reportSandboxes(
  offer: SandboxOffer,
  send: (message: SandboxesMessage) => Promise<void>,
  { clock, signal }: { clock: Clock; signal: AbortSignal },
): Promise<void> {
  const { isDue } = offer
  if (!isDue) await send({ type: 'sandboxes', full: true, sandboxes: [], denials: [] })
  const { sandboxes } = await Promise.race([offer.opened, aborted(signal)])
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
    while (!signal.aborted) {
      if (changed.size === 0 && denials.length === 0) {
        await wakeup.next({ clock, withinMs: idleMs, signal })
        continue
      }
      const ids = new Set(changed)
      const told = denials
      changed.clear()
      denials = []
      const latest = sandboxes.list().filter(({ id }) => ids.has(id))
      await send({ type: 'sandboxes', full: false, sandboxes: latest.slice(0, mostPerMessage), denials: told })
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
