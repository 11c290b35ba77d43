import { readFile } from 'node:fs/promises'
import { Fault } from '../../model/fault.ts'
import type { Cli } from '../cli.ts'

const maxBytes = 64 * 1024

/**
 * `--secret id=ID,src=FILE` and `--secret id=ID,env=NAME`, by id in base64. Arguments only say where secrets are, since
 * whatever is in an argument, others can read.
 */
export async function readBuildSecrets(
  { env }: Pick<Cli, 'env'>,
  given: readonly string[],
): Promise<Record<string, string> | undefined> {
  if (given.length === 0) return undefined
  const secrets: Record<string, string> = {}
  for (const text of given) {
    const fields = new Map(text.split(',').map((field) => [field.replace(/=.*/s, ''), field.replace(/^[^=]*=?/, '')]))
    const id = fields.get('id')
    const file = fields.get('src') ?? fields.get('source')
    const variable = fields.get('env')
    const strange = [...fields.keys()].find((key) => !['id', 'src', 'source', 'env', 'type'].includes(key))
    // It is not shown: it may be the secret itself.
    if (!id || strange !== undefined || (file === undefined) === (variable === undefined))
      throw new Fault('invalid', '--secret needs id=ID,src=FILE or id=ID,env=NAME')
    const bytes = file === undefined ? ofVariable(env, variable ?? '') : await ofFile(file)
    if (bytes.length > maxBytes) throw new Fault('invalid', `secret "${id}" is over ${maxBytes / 1024} KiB`)
    secrets[id] = bytes.toString('base64')
  }
  return secrets
}

function ofVariable(env: Cli['env'], name: string): Buffer {
  const value = env[name]
  if (value === undefined) throw new Fault('invalid', `cannot read a secret: ${name} is not set in the environment`)
  return Buffer.from(value)
}

async function ofFile(file: string): Promise<Buffer> {
  return readFile(file).catch((error: NodeJS.ErrnoException) => {
    throw new Fault('invalid', `cannot read a secret from ${file}: ${error.code ?? error.message}`)
  })
}
