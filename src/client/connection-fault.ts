import { Fault } from '../model/fault.ts'

/** What a failed connection means, in words. */
export function connectionFault(error: unknown, url: string, remedy = 'is the control plane running there?'): Fault {
  if (error instanceof Fault) return error
  const code = (error as NodeJS.ErrnoException).code ?? ''
  const cannot = `cannot reach the control plane at ${url}`
  if (code === 'ECONNREFUSED') return new Fault('unavailable', `${cannot}: nothing listens there; ${remedy}`)
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') {
    return new Fault('unavailable', `${cannot}: its name cannot be resolved; check the address`)
  }
  if (code === 'CERT_HAS_EXPIRED') {
    return new Fault('unavailable', `${cannot}: its certificate has expired; restart it to have a new one made`)
  }
  if (untrusted.has(code)) {
    return new Fault(
      'unauthenticated',
      `what listens at ${url} shows a certificate of another authority; it is another control plane, or this one was set up anew`,
    )
  }
  const reason = error instanceof Error ? error.message : String(error)
  return new Fault('unavailable', `${cannot}: ${reason}`, { cause: error })
}

const untrusted = new Set([
  'SELF_SIGNED_CERT_IN_CHAIN',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_GET_ISSUER_CERT',
  'CERT_SIGNATURE_FAILURE',
  'INVALID_PURPOSE',
])
