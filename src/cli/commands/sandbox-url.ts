import { isIP } from 'node:net'
import { Fault } from '../../model/fault.ts'
import type { Cli, Given } from '../cli.ts'
import { chooseContext } from '../contexts.ts'
import { flagOption, textOption } from '../options.ts'

/** `tutti sandbox url`: where a port answers HTTP and WebSockets, and what must be shown there. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const [sandbox = '', port = ''] = args
  if (!/^\d{1,5}$/.test(port) || Number(port) < 1 || Number(port) > 65_535)
    throw new Fault('invalid', `"${port}" is not a port`)
  const context = textOption(options, 'context')
  await using client = await cli.client(context)
  const { sandbox: found } = await client.getSandbox({ sandbox }, { signal: cli.signal })
  const url = `${client.url}/v1/sandboxes/${found.id}/ports/${port}/`
  if (flagOption(options, 'withToken')) {
    const { token } = await chooseContext(cli.home, cli.env, context)
    cli.stdout.write(`${url}?tutti-token=${encodeURIComponent(token ?? '')}\n`)
    cli.stderr.write('whoever has this address has your token; a browser keeps it as a cookie\n')
    return undefined
  }
  const { host, hostname } = new URL(client.url)
  cli.stdout.write(`${url}\n`)
  cli.stderr.write(
    'It wants a token that may connect: "Authorization: Bearer TOKEN", "?tutti-token=TOKEN" once, or the cookie tutti-token.\n',
  )
  // There are no names below an address.
  if (isIP(hostname.replace(/^\[|\]$/g, '')) === 0)
    cli.stderr.write(
      `Where names below the control plane lead to it, "https://${port}-${found.id}.${host}/" is the same.\n`,
    )
  return undefined
}
