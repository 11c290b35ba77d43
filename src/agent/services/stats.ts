import type { Stats } from '../../drivers/driver.ts'
import type { StatsStream } from '../../wire/services.ts'
import type { Service } from './service.ts'

/** One JSON line: what each running task uses now. A task whose driver cannot say is left out. */
export const stats: Service<StatsStream> = async (_request, stream, { runner }) => {
  const tasks: Record<string, Stats> = {}
  await Promise.all(
    runner.tasks.map(async ({ name, handle, driver }) => {
      if (!handle || !driver.can.stats) return
      const now = await handle.stats().catch(() => undefined)
      if (now) tasks[name] = now
    }),
  )
  stream.end(`${JSON.stringify({ tasks })}\n`)
}
