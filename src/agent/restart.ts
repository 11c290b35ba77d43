import type { JobSpec } from '../model/job.ts'
import { restartAttempts } from '../model/job.ts'
import { formatDuration } from '../model/units.ts'

/** What to do about a task that ended when it should not have. */
export type RestartDecision =
  | { restart: true; delayMs: number; failures: number[]; message: string }
  | { restart: false; message: string }

/**
 * The restart policy, pure: so many restarts on this node within the interval, each after twice the delay; beyond that
 * the allocation fails, or waits until the interval is over. `failures` are the times of former ones, ms since the epoch.
 */
export function decideRestart(
  job: Pick<JobSpec, 'type' | 'restart'>,
  failures: readonly number[],
  now: number,
): RestartDecision {
  const { interval, delay, maxDelay, mode } = job.restart
  const attempts = restartAttempts(job)
  const recent = failures.filter((at) => now - at < interval)
  if (recent.length < attempts) {
    const delayMs = Math.min(maxDelay, delay * 2 ** Math.min(recent.length, 30))
    const message = `restart ${recent.length + 1} of ${attempts} in ${formatDuration(delayMs)}`
    return { restart: true, delayMs, failures: [...recent, now], message }
  }
  if (mode === 'fail' || attempts === 0) {
    const message =
      attempts === 0
        ? 'its restart policy allows no restart'
        : `it used up its ${attempts} restarts within ${formatDuration(interval)}`
    return { restart: false, message }
  }
  const delayMs = Math.max(delay, (recent[0] ?? now) + interval - now)
  return {
    restart: true,
    delayMs,
    failures: [],
    message: `its ${attempts} restarts are used up; next try in ${formatDuration(delayMs)}, when the interval is over`,
  }
}
