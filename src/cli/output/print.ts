import type { Cli } from '../cli.ts'

export type Format = 'table' | 'json' | 'yaml' | 'name'
export const formats: readonly Format[] = ['table', 'json', 'yaml', 'name']

export interface Printable {
  /** For programs, whole. */
  value: unknown
  /** One word per thing, to be given to the next command. */
  names: () => readonly string[]
  /** For people. */
  table: () => string
}

/** Writes a result in the form that was asked for. */
export async function print(cli: Cli, format: unknown, { value, names, table }: Printable): Promise<void> {
  if (format === 'json') cli.stdout.write(`${JSON.stringify(value, null, 2)}\n`)
  else if (format === 'name') for (const name of names()) cli.stdout.write(`${name}\n`)
  else if (format === 'yaml') {
    const { stringify } = await import('yaml')
    cli.stdout.write(stringify(value))
  } else cli.stdout.write(table())
}
