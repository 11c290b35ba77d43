import { Fault } from '../../model/fault.ts'
import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'

/** `tutti node label NODE rack=a gpu-`: sets one label and removes another. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const [name = '', ...words] = args
  const labels = Object.fromEntries(words.map(readLabel))
  await using client = await cli.client(textOption(options, 'context'))
  const { node } = await client.labelNode({ node: name, body: { labels } }, { signal: cli.signal })
  const all = Object.entries(node.labels).map(([label, value]) => `${label}=${value}`)
  cli.stdout.write(`labels of node "${node.name}": ${all.join(' ') || 'none'}\n`)
  return undefined
}

function readLabel(word: string): [string, string | null] {
  const at = word.indexOf('=')
  if (at > 0) return [word.slice(0, at), word.slice(at + 1)]
  if (at < 0 && word.length > 1 && word.endsWith('-')) return [word.slice(0, -1), null]
  throw new Fault('invalid', `"${word}" is neither key=value, which sets a label, nor key-, which removes one`)
}
