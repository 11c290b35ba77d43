import { type Client, createClient } from '../client/client.ts'
import type { Cli } from './cli.ts'
import { chooseContext } from './contexts.ts'

/** A client for the control plane that the context names. */
export async function connect(cli: Cli, contextName: string | undefined): Promise<Client> {
  const { url, ca, caFingerprint, token } = await chooseContext(cli.home, cli.env, contextName)
  return createClient({
    url,
    ca,
    caFingerprint: caFingerprint || undefined,
    token,
    clock: cli.clock,
    remedy: 'start one with "tutti dev", or choose another with "tutti context use"',
  })
}
