import { fetchAuthority } from '../../client/authority.ts'
import { Fault } from '../../model/fault.ts'
import type { Cli, Given } from '../cli.ts'
import { saveContext, withScheme } from '../contexts.ts'
import { defaultPort } from '../home.ts'
import { flagOption, readSecretFile, textOption } from '../options.ts'

/** `tutti context add`: the fingerprint is checked against what answers there before anything is kept. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const [name = '', address = ''] = args
  const url = toUrl(address)
  const caFingerprint = textOption(options, 'caFingerprint')?.replaceAll(':', '').toLowerCase()
  if (caFingerprint === undefined || !/^[0-9a-f]{64}$/.test(caFingerprint)) {
    throw new Fault(
      'invalid',
      'give the fingerprint of its authority with --ca-fingerprint (64 hex digits); "tutti context show" prints it where the control plane runs',
    )
  }
  const file = textOption(options, 'tokenFile')
  const token = file === undefined ? cli.env.TUTTI_TOKEN || undefined : await readSecretFile(file, cli)
  const ca = await fetchAuthority({ url, fingerprint: caFingerprint, signal: cli.signal })
  const context = { name, url, caFingerprint, ca, ...(token === undefined ? {} : { token }) }
  await saveContext(cli.home, context, { use: flagOption(options, 'use') })
  cli.stdout.write(`context "${name}" leads to ${url}\n`)
  return undefined
}

function toUrl(address: string): string {
  const text = withScheme(address)
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url?.protocol !== 'https:')
    throw new Fault(
      'invalid',
      `"${address}" is not the address of a control plane; write it like "host:${defaultPort}"`,
    )
  if (url.port === '' && !/:443\/?$/.test(text)) url.port = String(defaultPort)
  return url.origin
}
