import { Fault, type FaultPlace, sentence } from '../model/fault.ts'
import type { Cli } from './cli.ts'
import { exitCodeOf, exitCodes } from './exit-codes.ts'
import { paint } from './output/text.ts'

/** A command that has said all there is to say ends with this. */
export class ExitWith extends Error {
  readonly exitCode: number

  constructor(exitCode: number) {
    super(`exit ${exitCode}`)
    this.exitCode = exitCode
  }
}

/** Says in one sentence what went wrong, on standard error; never a stack trace. Returns the exit code. */
export async function reportFailure(cli: Cli, error: unknown): Promise<number> {
  if (error instanceof ExitWith) return error.exitCode
  if (isBrokenPipe(error)) return exitCodes.ok
  if (cli.signal.aborted) return exitCodes.interrupted
  const isFault = error instanceof Fault
  const message = isFault
    ? asTyped(sentence(error))
    : `this is a mistake in Tutti itself: ${error instanceof Error ? error.message : String(error)}`
  cli.stderr.write(`${paint(cli.stderr, 'bad', 'tutti:')} ${message}\n`)
  if (isFault) await sayPlaces(cli, error, message)
  if (!isFault && cli.env.TUTTI_DEBUG && error instanceof Error) cli.stderr.write(`${error.stack}\n`)
  return isFault ? exitCodeOf(error) : exitCodes.failed
}

/** Nobody who types knows of a body: the API's words for what is wrong with a request, without where it was. */
function asTyped(message: string): string {
  return message.replace(/^("[\w.-]+") in the (?:body|query): (?:it )?(?="|must )/, (_all, name: string) =>
    message.startsWith('"', message.indexOf(': ') + 2) ? '' : `${name} `,
  )
}

/** Every single mistake, with the line it is in where that is known. */
async function sayPlaces(cli: Cli, fault: Fault, said: string): Promise<void> {
  if (fault.places.length === 0) return
  const { SpecFault } = await import('./spec/spec-fault.ts')
  const { excerpt } = await import('./spec/excerpt.ts')
  for (const place of fault.places) {
    if (!said.includes(place.message)) cli.stderr.write(`  ${placeLine(place)}\n`)
    const source = fault instanceof SpecFault ? fault.sources.get(place.file ?? '') : undefined
    const lines = excerpt(place, source)
    if (lines !== undefined) cli.stderr.write(`${paint(cli.stderr, 'faint', lines)}\n`)
  }
}

function placeLine({ file, line, column, path, message }: FaultPlace): string {
  const where = file === undefined ? path : [file, line, column].filter((part) => part !== undefined).join(':')
  return where === undefined ? message : `${where}: ${message}`
}

/** Whoever reads our output has had enough, as `head` does. */
export function isBrokenPipe(error: unknown): boolean {
  return error instanceof Error && (error as NodeJS.ErrnoException).code === 'EPIPE'
}
