import { Fault } from '../../model/fault.ts'
import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'

/** `tutti token revoke`: a service account's or a join token. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const [token = ''] = args
  await using client = await cli.client(textOption(options, 'context'))
  const { signal } = cli
  try {
    await client.revokeToken({ token }, { signal })
  } catch (error) {
    if (!(error instanceof Fault) || error.code !== 'not_found') throw error
    await client.revokeJoinToken({ token }, { signal })
  }
  cli.stdout.write(`token "${token}" is revoked\n`)
  return undefined
}
