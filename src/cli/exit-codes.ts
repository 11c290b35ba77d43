import { BuildFault } from '../client/build-fault.ts'
import type { Fault, FaultCode } from '../model/fault.ts'

/** What the exit code of `tutti` says; scripts rely on it. */
export const exitCodes = {
  ok: 0,
  failed: 1,
  usage: 2,
  notFound: 3,
  denied: 4,
  unavailable: 5,
  conflict: 6,
  /** What a template's recipe ran has failed. */
  step: 7,
  /** `tutti run` of a single command: Tutti failed, not the command, whose own code is passed on. */
  tuttiItself: 125,
  interrupted: 130,
} as const

const exitCodeOfFault: Record<FaultCode, number> = {
  invalid: exitCodes.usage,
  unauthenticated: exitCodes.denied,
  denied: exitCodes.denied,
  not_found: exitCodes.notFound,
  conflict: exitCodes.conflict,
  exhausted: exitCodes.failed,
  unavailable: exitCodes.unavailable,
  internal: exitCodes.failed,
}

export function exitCodeOf(fault: Fault): number {
  if (fault instanceof BuildFault && fault.build.failure === 'step') return exitCodes.step
  return exitCodeOfFault[fault.code]
}
