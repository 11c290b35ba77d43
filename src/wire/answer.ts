import { z } from 'zod'
import { Fault, faultCodes } from '../model/fault.ts'
import { parseLine } from './lines.ts'

/** The answer line of a service stream: see `wire/services.ts`. */
export const Answer = z.union([
  z.strictObject({ ok: z.literal(true) }),
  z.strictObject({ fault: z.strictObject({ code: z.enum(faultCodes), message: z.string().max(10_000) }) }),
])
export type Answer = z.infer<typeof Answer>

export const okLine = '{"ok":true}\n'

export function faultLine(thrown: unknown): string {
  const { code, message } = Fault.from(thrown)
  return `${JSON.stringify({ fault: { code, message: message.slice(0, 10_000) } } satisfies Answer)}\n`
}

/** Returns when the answer is ok; throws the Fault that it carries, or one saying that it cannot be read. */
export function checkAnswer(line: string, service: string): void {
  if (`${line}\n` === okLine) return
  const answer = Answer.safeParse(parseLine(line, `the agent's answer for ${service}`))
  if (!answer.success) throw new Fault('internal', `the agent's answer for ${service} cannot be understood`)
  if ('fault' in answer.data) throw new Fault(answer.data.fault.code, answer.data.fault.message)
}
