/**
 * An error a user may read: a code from a closed list, one sentence saying what was tried, on what, and what would help.
 * Anything else that is thrown is `internal`: logged in full, shown without detail.
 */
export const faultCodes = [
  'invalid', // the request itself is wrong; sending it again changes nothing
  'unauthenticated', // who is asking is not known
  'denied', // who is asking is known, and may not
  'not_found',
  'conflict', // somebody else was first, or the thing is not in the state that this needs
  'exhausted', // a limit or a resource ran out
  'unavailable', // try again later
  'internal', // our bug
] as const

export type FaultCode = (typeof faultCodes)[number]

/** Where in a file a mistake stands; lines and columns count from 1. */
export interface FaultPlace {
  file?: string
  line?: number
  column?: number
  /** The path inside the document, such as `tasks.web.image`. */
  path?: string
  message: string
}

export class Fault extends Error {
  readonly code: FaultCode
  /** Every single mistake, where a request had several. */
  readonly places: readonly FaultPlace[]

  constructor(code: FaultCode, message: string, options: { cause?: unknown; places?: readonly FaultPlace[] } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'Fault'
    this.code = code
    this.places = options.places ?? []
  }

  /** The fault itself, or what was thrown wrapped as `internal`. */
  static from(thrown: unknown): Fault {
    if (thrown instanceof Fault) return thrown
    return new Fault('internal', 'an internal error; the server log has the details', { cause: thrown })
  }
}

/** What somebody's recipe ran failed: nothing is wrong with how it is written, and nothing of ours is amiss. */
export class StepFault extends Fault {}

/** One sentence for whatever was thrown: causes are joined, none is repeated. */
export function sentence(thrown: unknown): string {
  const parts: string[] = []
  for (let error = thrown; error !== undefined && error !== null; error = (error as { cause?: unknown }).cause) {
    const part = error instanceof Error ? error.message : String(error)
    if (part !== '' && !parts.some((seen) => seen.includes(part))) parts.push(part)
  }
  return parts.join(': ') || 'unknown error'
}
