import { buildIds, readReferences } from '../../blocks/operations/list.ts'
import type { Cli } from '../../cli/cli.ts'
import { closest } from '../../kit/nearest.ts'
import { Fault } from '../../model/fault.ts'
import { BuildId } from '../../model/ids.ts'
import type { BuildStore } from './store.ts'

/**
 * The build that somebody means, in a store: by its id or a beginning that no other has, by a name of the store that leads
 * to it, or by a template with or without a tag, which the control plane knows where one can be reached.
 */
export async function findBuild(
  cli: Cli,
  { objects }: Pick<BuildStore, 'objects'>,
  text: string,
  { context }: { context?: string | undefined } = {},
): Promise<BuildId> {
  const ids = await Array.fromAsync(buildIds(objects))
  const exact = ids.find((id) => id === text)
  if (exact) return exact
  const beginning = ids.filter((id) => id.startsWith(text))
  const [only, another] = beginning
  if (only && !another) return only
  if (another)
    throw new Fault('invalid', `${beginning.length} builds in ${objects.url} begin with "${text}": write more of it`)
  const references = await readReferences(objects, () => undefined)
  const named = references.find(({ name }) => name === text)
  if (named) return named.build
  const known = await askControlPlane(cli, text, context)
  if (known && ids.includes(known)) return known
  if (known)
    throw new Fault(
      'not_found',
      `"${text}" is build ${known}, which does not lie in ${objects.url}; see "tutti build list"`,
    )
  const near = closest(text, [...ids, ...references.map(({ name }) => name)])
  const hint =
    near !== undefined
      ? `did you mean "${near}"?`
      : ids.length === 0
        ? 'it has no builds'
        : `it has ${ids.length === 1 ? `only ${ids[0]}` : `${ids.length} builds`}; "tutti build list" lists them`
  throw new Fault('not_found', `there is no build "${text}" in ${objects.url}; ${hint}`)
}

async function askControlPlane(cli: Cli, build: string, context: string | undefined): Promise<BuildId | undefined> {
  try {
    await using client = await cli.client(context)
    const found = await client.getBuild({ build }, { signal: cli.signal })
    return BuildId.parse(found.build.id)
  } catch (error) {
    cli.signal.throwIfAborted()
    // A store can be looked at without a control plane; whoever named one wants to know.
    if (context !== undefined && error instanceof Fault && error.code !== 'not_found') throw error
    return undefined
  }
}
