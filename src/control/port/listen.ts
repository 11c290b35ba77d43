import type { AddressInfo, Server } from 'node:net'
import { Fault } from '../../model/fault.ts'

export interface ListenAddress {
  host: string
  /** 0: any free one. */
  port: number
}

/** Listens, and says in words why that is impossible. Returns the port, which matters when any free one was asked for. */
export async function listen(server: Server, { host, port }: ListenAddress): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  server.once('error', reject)
  server.listen({ host, port }, resolve)
  try {
    await promise
  } catch (error) {
    throw listenFault(error as NodeJS.ErrnoException, hostPort({ host, port }))
  } finally {
    server.off('error', reject)
  }
  return (server.address() as AddressInfo).port
}

export function hostPort({ host, port }: ListenAddress): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

function listenFault(error: NodeJS.ErrnoException, where: string): Fault {
  const remedies: Record<string, string> = {
    EADDRINUSE: 'another program has the port; stop it, or choose another with --listen <host>:<port>',
    EACCES: 'ports below 1024 need more rights; choose a higher one with --listen <host>:<port>',
    EADDRNOTAVAIL: 'this machine does not have that address; choose one it has with --listen <host>:<port>',
    ENOTFOUND: 'that name cannot be resolved; give an address with --listen <host>:<port>',
  }
  const remedy = remedies[error.code ?? '']
  const code = error.code === 'EADDRINUSE' ? 'conflict' : 'invalid'
  // A cause that the sentence has put into words already would only be said twice.
  if (remedy !== undefined) return new Fault(code, `cannot listen on ${where}: ${remedy}`)
  return new Fault(code, `cannot listen on ${where}; choose another address with --listen <host>:<port>`, {
    cause: error,
  })
}
