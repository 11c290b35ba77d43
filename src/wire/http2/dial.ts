import { isIP } from 'node:net'
import tls, { type TLSSocket } from 'node:tls'
import { Fault } from '../../model/fault.ts'
import { agentProtocol } from '../messages.ts'
import type { Identity } from './identity.ts'
import { tcpKeepAliveMs } from './settings.ts'

export interface Address {
  host: string
  port: number
}

/**
 * A TLS connection to the control plane's port, speaking the agent protocol.
 *
 * The server is believed when its certificate leads to the authority that this agent joined; its host name is not
 * looked at. Agents reach the control plane by many names (a tunnel, a port forward, an address behind NAT, a name that
 * changed since), the authority signs nothing but this cluster's certificates, and those of agents are not valid for
 * servers: so the chain alone proves that this is the control plane.
 */
export function dialTls({ address, identity, signal }: DialTlsOptions): Promise<TLSSocket> {
  const where = addressText(address)
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(given(signal, where))
    const socket = tls.connect({
      host: address.host,
      port: address.port,
      ...(isIP(address.host) ? {} : { servername: address.host }),
      ALPNProtocols: [agentProtocol],
      minVersion: 'TLSv1.3',
      ca: identity.ca,
      cert: identity.certificate,
      key: identity.key,
      checkServerIdentity: () => undefined,
    })
    const settle = (outcome: () => void) => {
      signal.removeEventListener('abort', onAbort)
      socket.off('error', onError).off('close', onClose)
      outcome()
    }
    const fail = (fault: unknown) =>
      settle(() => {
        socket.on('error', () => {})
        socket.destroy()
        reject(fault)
      })
    const onAbort = () => fail(given(signal, where))
    const onError = (error: NodeJS.ErrnoException) => fail(dialFault(error, where))
    const onClose = () =>
      fail(new Fault('unavailable', `the server at ${where} closed the connection before TLS was set up`))
    signal.addEventListener('abort', onAbort, { once: true })
    socket.on('error', onError).on('close', onClose)
    socket.once('secureConnect', () => {
      if (socket.alpnProtocol !== agentProtocol) {
        return fail(
          new Fault(
            'unavailable',
            `the server at ${where} does not speak ${agentProtocol}; is it a Tutti control plane, and not older than this agent?`,
          ),
        )
      }
      socket.setNoDelay(true)
      socket.setKeepAlive(true, tcpKeepAliveMs)
      settle(() => resolve(socket))
    })
  })
}

interface DialTlsOptions {
  address: Address
  identity: Identity
  signal: AbortSignal
}

export function addressText({ host, port }: Address): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

function given(signal: AbortSignal, where: string): unknown {
  const reason: unknown = signal.reason
  if (!(reason instanceof DOMException) || reason.name !== 'TimeoutError') return reason
  return new Fault('unavailable', `the control plane at ${where} did not answer in time`, { cause: reason })
}

/** What a failed connection means, in words. */
export function dialFault(error: NodeJS.ErrnoException, where: string): Fault {
  const code = error.code ?? ''
  if (code === 'ECONNREFUSED') {
    return new Fault('unavailable', `nothing listens at ${where}; is the control plane running there?`, {
      cause: error,
    })
  }
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') {
    return new Fault('unavailable', `the name of ${where} cannot be resolved`, { cause: error })
  }
  if (code === 'CERT_HAS_EXPIRED') {
    return new Fault(
      'unavailable',
      `the certificate of the server at ${where} has expired; restart the control plane to renew it`,
      { cause: error },
    )
  }
  if (untrustedCodes.has(code)) {
    return new Fault(
      'unauthenticated',
      `the server at ${where} presents a certificate of another authority; it is another control plane, or this one was set up anew`,
      { cause: error },
    )
  }
  if (code === 'ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL') {
    return new Fault(
      'unavailable',
      `the server at ${where} does not speak ${agentProtocol}; is it a Tutti control plane, and not older than this agent?`,
      { cause: error },
    )
  }
  return new Fault('unavailable', `cannot connect to the control plane at ${where}`, { cause: error })
}

/** Codes of TLS errors that mean: not our authority. */
export const untrustedCodes: ReadonlySet<string> = new Set([
  'SELF_SIGNED_CERT_IN_CHAIN',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'CERT_SIGNATURE_FAILURE',
  'INVALID_PURPOSE',
])
