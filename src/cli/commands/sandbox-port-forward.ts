import { forwardPort } from '../../client/sandbox.ts'
import { Fault } from '../../model/fault.ts'
import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'

/** `tutti sandbox port-forward`: ports of our loopback that lead inside, until it is interrupted. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const [sandbox = '', ...ports] = args
  const wanted = ports.map(readPorts)
  await using client = await cli.client(textOption(options, 'context'))
  const { sandbox: found } = await client.getSandbox({ sandbox }, { signal: cli.signal })
  await using open = new AsyncDisposableStack()
  for (const { local, port } of wanted) {
    const forwarded = await forwardPort(
      (call) => client.forwardSandbox({ sandbox: found.id, port }, call),
      local,
      (error) => cli.stderr.write(`tutti: ${Fault.from(error).message}\n`),
    )
    open.use(forwarded)
    cli.stdout.write(`127.0.0.1:${forwarded.port} leads to port ${port} of ${found.id}\n`)
  }
  cli.stderr.write('Ctrl-C ends it\n')
  if (!cli.signal.aborted) await new Promise((resolve) => cli.signal.addEventListener('abort', resolve, { once: true }))
  return undefined
}

function readPorts(text: string): { local: number; port: number } {
  const [, local, port] = /^(?:(\d{1,5}):)?(\d{1,5})$/.exec(text) ?? []
  const inside = Number(port)
  const here = local === undefined ? inside : Number(local)
  if (port !== undefined && inside >= 1 && inside <= 65_535 && here <= 65_535) return { local: here, port: inside }
  throw new Fault('invalid', `"${text}" is neither PORT nor LOCAL:PORT`)
}
