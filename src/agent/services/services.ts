import type { z } from 'zod'
import { Fault } from '../../model/fault.ts'
import type { StreamService } from '../../wire/link.ts'
import { type ServiceName, services } from '../../wire/services.ts'
import type { Parts } from '../allocation-runner.ts'
import type { Allocations } from '../allocations.ts'
import { exec } from './exec.ts'
import { logs } from './logs.ts'
import type { Service } from './service.ts'
import { signal } from './signal.ts'
import { stats } from './stats.ts'

/** All that this agent serves on byte streams; each request is parsed before anything is done with it. */
export function streamServices(parts: Parts, allocations: Allocations): Record<ServiceName, StreamService> {
  const serve =
    <Name extends ServiceName>(name: Name, service: Service<z.infer<(typeof services)[Name]>>): StreamService =>
    async (request, stream, { signal }) => {
      const parsed = services[name].safeParse(request)
      if (!parsed.success) {
        const [issue] = parsed.error.issues
        throw new Fault('invalid', `the request for ${name} is not valid: ${issue?.path.join('.')}: ${issue?.message}`)
      }
      const data = parsed.data as z.infer<(typeof services)[Name]>
      const runner = allocations.get(data.allocation)
      if (!runner) throw new Fault('not_found', `allocation ${data.allocation} is not on node "${parts.node.name}"`)
      await service(data, stream, { parts, runner, signal })
    }
  return {
    exec: serve('exec', exec),
    logs: serve('logs', logs),
    stats: serve('stats', stats),
    signal: serve('signal', signal),
  }
}
