import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'
import { print } from '../output/print.ts'
import { type Row, table } from '../output/table.ts'
import { age, counted, moment } from '../output/text.ts'

/** `tutti token list`: service accounts and join tokens; never the tokens themselves. */
export async function run(cli: Cli, { options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const [{ tokens }, { tokens: joinTokens }] = await Promise.all([
    client.listTokens({}, { signal: cli.signal }),
    client.listJoinTokens({}, { signal: cli.signal }),
  ])
  const now = cli.clock.now()
  const until = (at: number | null) =>
    at === null ? 'never' : at <= now ? { text: 'expired', tone: 'bad' as const } : moment(at)
  const rows: Row[] = [
    ...tokens.map((token) => [
      token.name,
      token.id,
      'account',
      until(token.expiresAt),
      age(now, token.createdAt),
      token.roles.join(' '),
    ]),
    ...joinTokens.map((token) => [
      token.name,
      token.id,
      'join',
      until(token.expiresAt),
      age(now, token.createdAt),
      token.usesLeft === null ? 'any number of machines' : `${counted(token.usesLeft, 'machine')} more`,
    ]),
  ]
  await print(cli, options.output, {
    value: { tokens, joinTokens },
    names: () => [...tokens, ...joinTokens].map(({ name }) => name),
    table: () => table(cli.stdout, ['TOKEN', 'ID', 'KIND', 'EXPIRES', 'AGE', 'ALLOWS'], rows),
  })
  return undefined
}
