import type { Input } from '../../client/client.ts'
import { Fault } from '../../model/fault.ts'
import type { Cli, Given } from '../cli.ts'
import { durationOption, flagOption, readPairs, textOption, textsOption } from '../options.ts'
import { print } from '../output/print.ts'
import { moment } from '../output/text.ts'

type Role = Input<'createToken'>['body']['roles'][number]

/** `tutti token create`: the token itself is printed once, alone on standard output, and kept by nobody. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const expiresInMs = durationOption(options, 'expires')
  const [name] = args
  const join = flagOption(options, 'join')
  const roles = textsOption(options, 'role').flatMap((word) => word.split(','))
  if (join && roles.length > 0) throw new Fault('invalid', 'a join token has no roles; leave out --join or --role')
  if (!join && name === undefined) throw new Fault('invalid', 'a service account needs a name: tutti token create NAME')
  await using client = await cli.client(textOption(options, 'context'))
  const { token, secret } = join
    ? await client.createJoinToken(
        {
          body: {
            ...(name === undefined ? {} : { name }),
            ...(expiresInMs === undefined ? {} : { expiresInMs }),
            ...usesOption(textOption(options, 'uses')),
            labels: readPairs('--label', textsOption(options, 'label')),
          },
        },
        { signal: cli.signal },
      )
    : await client.createToken(
        {
          body: {
            name: name ?? '',
            // The control plane knows which roles there are, and says so.
            roles: (roles.length > 0 ? roles : ['compute:read']) as Role[],
            expiresInMs: expiresInMs ?? null,
          },
        },
        { signal: cli.signal },
      )
  const until = token.expiresAt === null ? 'does not expire' : `is good until ${moment(token.expiresAt)}`
  const remedy = join ? `on the machine: tutti agent --join TOKEN ${new URL(client.url).host}` : 'it is not shown again'
  await print(cli, options.output, {
    value: { ...token, secret },
    names: () => [token.name],
    table: () => `${secret}\n`,
  })
  if (options.output === undefined || options.output === 'table')
    cli.stderr.write(`token "${token.name}" ${until}; ${remedy}\n`)
  return undefined
}

function usesOption(text: string | undefined): { uses?: number | null } {
  if (text === undefined) return {}
  if (text === 'any') return { uses: null }
  if (/^[1-9]\d{0,5}$/.test(text)) return { uses: Number(text) }
  throw new Fault('invalid', `--uses needs a number from 1, or "any", not "${text}"`)
}
