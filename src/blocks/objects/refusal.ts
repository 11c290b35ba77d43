import { Fault, type FaultCode, sentence } from '../../model/fault.ts'

/**
 * Why a server of objects did not do what it was asked, and what would help where that is known. What it answered is
 * the cause as long as its words are in the message: whoever prints both says nothing twice.
 */
export function refusal(
  tried: string,
  error: unknown,
  {
    code,
    status,
    isTooLarge = false,
    said,
  }: {
    code: FaultCode
    /** Of its answer; undefined when there was none. */
    status: number | undefined
    /** It takes objects, but none that long. */
    isTooLarge?: boolean
    /** Its own words, or what takes their place. */
    said: string | undefined
  },
): Fault {
  const words = said?.replace(/\.$/, '').replaceAll('. ', '; ')
  const reason = words ?? (status === undefined ? 'there was no answer' : `the server answered ${status}`)
  const message = `${tried}: ${withHelp(reason, { code, status, isTooLarge })}`
  return new Fault(code, message, message.includes(sentence(error)) ? { cause: error } : {})
}

function withHelp(
  reason: string,
  { code, status, isTooLarge }: { code: FaultCode; status: number | undefined; isTooLarge: boolean },
): string {
  if (status === 429 || status === 503) return `${reason}; the server is asked too much, so try again later`
  if (code !== 'exhausted') return reason
  if (isTooLarge) return `${reason}; let the server take objects of up to 64 MiB, which packs may have`
  return `the store takes no more (${reason}); free some of it, or raise its quota, and try again`
}
