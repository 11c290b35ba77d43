import type { ZodError } from 'zod'
import { Fault, type FaultCode, type FaultPlace } from '../model/fault.ts'

/** The one place where fault codes become HTTP statuses. 500 is our bug; 503 may be tried again. */
export const statusOf: Record<FaultCode, number> = {
  invalid: 400,
  unauthenticated: 401,
  denied: 403,
  not_found: 404,
  conflict: 409,
  exhausted: 429,
  unavailable: 503,
  internal: 500,
}

/** The body of every failed request (`application/problem+json`, RFC 9457). */
export interface Problem {
  code: FaultCode
  message: string
  places?: readonly FaultPlace[]
}

export function problemOf(fault: Fault): Problem {
  return { code: fault.code, message: fault.message, ...(fault.places.length > 0 ? { places: fault.places } : {}) }
}

/** What a schema objected to, as one fault that lists every mistake by its path. */
export function faultOfZod(part: string, error: ZodError): Fault {
  // What stands in a query is one text, whatever it is taken apart to.
  const pathOf = ({ path }: ZodError['issues'][number]) => (part === 'the query' ? path.slice(0, 1) : path).join('.')
  const places = error.issues.slice(0, 50).map((issue) => ({ path: pathOf(issue), message: sentenceOf(issue) }))
  const first = places[0]
  const where = first?.path ? `"${first.path}" in ${part}` : part
  const more = places.length > 1 ? ` (and ${places.length - 1} more)` : ''
  return new Fault('invalid', `${where}: ${first?.message ?? 'is not valid'}${more}`, { places })
}

/** The schemas' own messages are for people; of zod's, those that people meet are put into words. */
function sentenceOf(issue: ZodError['issues'][number]): string {
  if (issue.code === 'invalid_value') return `it must be ${oneOf(issue.values.map(String))}`
  if (issue.code === 'unrecognized_keys') return `nothing is known of ${issue.keys.map((key) => `"${key}"`).join(', ')}`
  // A bound that says nothing of its own.
  if (issue.code === 'too_small' && issue.message.startsWith('Too small'))
    return `it must ${sizeWord(issue.origin)} at least ${issue.minimum}${unitOf(issue.origin, issue.minimum)}`
  if (issue.code === 'too_big' && issue.message.startsWith('Too big'))
    return `it must ${sizeWord(issue.origin)} at most ${issue.maximum}${unitOf(issue.origin, issue.maximum)}`
  return issue.message
}

function sizeWord(origin: string): string {
  return unitOf(origin, 1) === '' ? 'be' : 'have'
}

function unitOf(origin: string, count: number | bigint): string {
  const isOne = Number(count) === 1
  if (origin === 'string') return isOne ? ' character' : ' characters'
  if (origin === 'array' || origin === 'set') return isOne ? ' entry' : ' entries'
  return ''
}

function oneOf(words: readonly string[]): string {
  return words.length === 1 ? `"${words[0]}"` : `one of ${words.join(', ')}`
}
