import { z } from 'zod'
import { parseDuration, parseSize } from './quantity.ts'

export { formatDuration, formatSize, MiB, parseDuration, parseSize } from './quantity.ts'

/** A size in a spec: text with a unit, or a number of bytes. Always bytes once parsed. */
export const Size = z
  .union([
    z.int().nonnegative(),
    z.string().transform((text, context) => {
      const bytes = parseSize(text)
      if (bytes !== undefined) return bytes
      context.addIssue({ code: 'custom', message: `"${text}" is not a size; write it like "512MiB" or "2GiB"` })
      return z.NEVER
    }),
  ])
  .meta({ description: 'A size such as "512MiB"; a bare number is bytes.' })

/** A duration in a spec: text with a unit, or a number of milliseconds. Always milliseconds once parsed. */
export const Duration = z
  .union([
    z.int().nonnegative(),
    z.string().transform((text, context) => {
      const ms = parseDuration(text)
      if (ms !== undefined) return ms
      context.addIssue({ code: 'custom', message: `"${text}" is not a duration; write it like "30s" or "1h30m"` })
      return z.NEVER
    }),
  ])
  .meta({ description: 'A duration such as "30s" or "1h30m"; a bare number is milliseconds.' })
