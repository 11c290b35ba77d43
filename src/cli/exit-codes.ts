import type { FaultCode } from '../model/fault.ts'

/** What the exit code of `tutti` says; scripts rely on it. */
export const exitCodes = {
  ok: 0,
  failed: 1,
  usage: 2,
  notFound: 3,
  denied: 4,
  unavailable: 5,
  conflict: 6,
  /** `tutti run` of a single command: Tutti failed, not the command, whose own code is passed on. */
  tuttiItself: 125,
  interrupted: 130,
} as const

export const exitCodeOf: Record<FaultCode, number> = {
  invalid: exitCodes.usage,
  unauthenticated: exitCodes.denied,
  denied: exitCodes.denied,
  not_found: exitCodes.notFound,
  conflict: exitCodes.conflict,
  exhausted: exitCodes.failed,
  unavailable: exitCodes.unavailable,
  internal: exitCodes.failed,
}
