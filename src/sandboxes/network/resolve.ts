import { Resolver } from 'node:dns/promises'

/** Turns names into IPv4 addresses, on behalf of sandboxes. None where the name has none; rejects when nobody can say. */
export type Resolve = (name: string, options: { signal: AbortSignal }) => Promise<Resolved>

export interface Resolved {
  /** False where the name itself does not exist. */
  exists: boolean
  addresses: { address: string; ttl: number }[]
}

/** Asks the nameservers of this machine. */
export const resolveWithSystem: Resolve = async (name, { signal }) => {
  const resolver = new Resolver({ timeout: 3000, tries: 2 })
  const cancel = () => resolver.cancel()
  signal.addEventListener('abort', cancel, { once: true })
  try {
    return { exists: true, addresses: await resolver.resolve4(name, { ttl: true }) }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOTFOUND' || code === 'ENODATA') return { exists: code === 'ENODATA', addresses: [] }
    throw error
  } finally {
    signal.removeEventListener('abort', cancel)
  }
}
