import { z } from 'zod'

/** Parts that several endpoints share. Everything in a path or a query arrives as text, and may be given as what it means. */

/** A node or an allocation as people name it: its name, its id, or the beginning of its id. */
export const Reference = z
  .string()
  .regex(/^[a-z0-9]([a-z0-9-]{0,62})$/, 'must be a name, an id or the beginning of an id')
  .meta({ description: 'A name, an id, or the beginning of an id when only one begins so.' })

export const Tag = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/, 'must be 1 to 63 letters, digits, dots, dashes or underlines')

export const Flag = z
  .union([z.boolean(), z.enum(['true', 'false']).transform((text) => text === 'true')])
  .pipe(z.boolean())

/** A whole number from `least` to `most`. */
export function count(least: number, most: number) {
  return z
    .union([
      z.int(),
      z
        .string()
        .regex(/^\d{1,15}$/, 'must be a whole number')
        .transform(Number),
    ])
    .pipe(z.int().min(least).max(most))
}

/** A list in a query: `a,b`, or an array from the client. */
export function list<const T extends readonly [string, ...string[]]>(values: T) {
  return z
    .union([z.array(z.enum(values)), z.string().max(1000).transform(splitWords)])
    .pipe(z.array(z.enum(values)).min(1).max(values.length))
}

function splitWords(text: string): string[] {
  return text.split(',').filter((word) => word !== '')
}

/** Index of a commit of the store: it only rises. */
export const Index = z.int().nonnegative().meta({ description: 'Index of a commit; it only rises.' })
export const Time = z.int().meta({ description: 'Milliseconds since 1970-01-01 UTC.' })

/** What a list is asked for: at most `limit` rows, those after the key `after`. */
export const pageQuery = {
  after: z
    .string()
    .max(200)
    .optional()
    .meta({ description: 'Continue after this key: the `next` of the last answer.' }),
  limit: count(1, 10_000).default(1000),
}

/** What every list answers beside its rows. */
export const pageAnswer = {
  index: Index,
  next: z.string().nullable().meta({ description: 'Ask again with `after` set to this; null when that was all.' }),
}
