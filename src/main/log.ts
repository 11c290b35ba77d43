import { pino } from 'pino'
import type { Log } from '../kit/log.ts'

/** JSON lines on standard error, for programs that keep running. `TUTTI_LOG` sets the level. */
export function openLog(level = process.env['TUTTI_LOG'] ?? 'info'): Log {
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, pino.destination({ fd: 2, sync: true }))
}
