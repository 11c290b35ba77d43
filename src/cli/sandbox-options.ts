import { Fault } from '../model/fault.ts'
import { parseDuration } from '../model/quantity.ts'
import type { Egress } from '../model/sandbox.ts'
import type { Cli } from './cli.ts'
import { textsOption } from './options.ts'
import { progress } from './output/progress.ts'

/** Options of commands for sandboxes, read as what they mean. */

/** A duration, or "never". */
export function timeoutOf(text: string): number | null {
  if (text === 'never') return null
  const ms = parseDuration(text)
  if (ms !== undefined && ms < 1000) throw new Fault('invalid', `a sandbox runs for at least 1s, not "${text}"`)
  if (ms !== undefined) return ms
  throw new Fault('invalid', `"${text}" is not a duration such as 90s or 1h30m, nor "never"`)
}

/** The process id of a command in a sandbox. */
export function pidOf(word: string): number {
  if (/^[1-9]\d{0,6}$/.test(word)) return Number(word)
  throw new Fault('invalid', `"${word}" is not a process id; "tutti sandbox ps SANDBOX" lists them`)
}

/** `allow`, `deny`, or what `--allow` lists; undefined when nothing is said. */
export function egressOf(policy: string | undefined, options: Record<string, unknown>): Egress | undefined {
  const listed = textsOption(options, 'allow')
  if (policy !== undefined && policy !== 'allow' && policy !== 'deny')
    throw new Fault('invalid', `"${policy}" is no policy; say allow or deny, or list what may be reached with --allow`)
  if (listed.length === 0) return policy === undefined ? undefined : { mode: policy }
  if (policy !== undefined) throw new Fault('invalid', `either "${policy}", or what --allow lists`)
  const isAddress = (text: string) => /^[\d.]+(\/\d+)?$/.test(text) || text.includes(':')
  return {
    mode: 'list',
    cidrs: listed
      .filter(isAddress)
      .map((text) => (text.includes('/') ? text : `${text}/${text.includes(':') ? 128 : 32}`)),
    domains: listed.filter((text) => !isAddress(text)),
  }
}

/** Does the same to several sandboxes at the same time, and says of each what became of it. The first failure is thrown. */
export async function toEach(
  cli: Cli,
  words: readonly string[],
  doing: string,
  verb: (sandbox: string) => Promise<string>,
): Promise<void> {
  using shown = progress(cli, { quiet: true })
  shown.show(`${doing}…`)
  const outcomes = await Promise.allSettled(words.map(verb))
  shown[Symbol.dispose]()
  const failures = outcomes.filter((outcome) => outcome.status === 'rejected')
  for (const outcome of outcomes) if (outcome.status === 'fulfilled') cli.stdout.write(`${outcome.value}\n`)
  for (const { reason } of failures.slice(1)) cli.stderr.write(`tutti: ${Fault.from(reason).message}\n`)
  if (failures[0]) throw failures[0].reason
}

/** `NAME` or `NAME:TAG`. */
export function nameAndTag(text: string): { template: string; tag: string | undefined } {
  const [template = '', tag] = text.split(':')
  return { template, tag }
}
