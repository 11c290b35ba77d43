import { z } from 'zod'
import { Fault, faultCodes } from '../model/fault.ts'

/** A fault as it travels: the body of every failed request (`application/problem+json`, RFC 9457). */
export const Problem = z
  .object({
    code: z.enum(faultCodes),
    message: z.string(),
    places: z
      .array(
        z.object({
          file: z.string().optional(),
          line: z.int().optional(),
          column: z.int().optional(),
          path: z.string().optional(),
          message: z.string(),
        }),
      )
      .optional()
      .meta({ description: 'Every single mistake, where a request had several.' }),
  })
  .meta({ id: 'Problem', description: 'Why a request failed.' })
export type Problem = z.infer<typeof Problem>

/** The same fault on the other side. */
export function faultOf({ code, message, places }: Problem): Fault {
  return new Fault(code, message, { places: (places ?? []) as Fault['places'] })
}
