import { deadline } from '../kit/clock.ts'
import type { Cli } from './cli.ts'
import type { CommandSpec } from './command-spec.ts'

/** A shell that waits for completion must not wait long. */
const patienceMs = 1000

/** Prints what may stand in the last of `words`, one per line; `:files` for file names. Never fails, never talks. */
export async function complete(cli: Cli, table: readonly CommandSpec[], words: readonly string[]): Promise<number> {
  const asked = words[0] === '--' ? words.slice(1) : words
  const answers = await candidates(cli, table, asked).catch((): string[] => [])
  const last = asked.at(-1) ?? ''
  for (const answer of answers) if (answer.startsWith(last) || answer === ':files') cli.stdout.write(`${answer}\n`)
  return 0
}

async function candidates(cli: Cli, table: readonly CommandSpec[], words: readonly string[]): Promise<string[]> {
  const before = words.slice(0, -1)
  const last = words.at(-1) ?? ''
  const spec = table.find(({ name }) => name === before.slice(0, name.split(' ').length).join(' '))
  if (!spec) {
    const depth = before.length
    const starts = table
      .map(({ name }) => name.split(' '))
      .filter((parts) => before.every((word, at) => parts[at] === word))
    return [...new Set(starts.map((parts) => parts[depth] ?? '').filter((part) => part !== ''))].sort()
  }
  const previous = spec.options?.find(({ flags }) => flags.split(/[ ,]+/).includes(before.at(-1) ?? ''))
  if (previous?.choices) return [...previous.choices]
  if (last.startsWith('-')) return (spec.options ?? []).flatMap(({ flags }) => flags.match(/--[\w-]+/g) ?? [])
  if (spec.name === 'completion') return ['bash', 'zsh', 'fish']
  return namesFor(cli, spec.completes)
}

async function namesFor(cli: Cli, what: CommandSpec['completes']): Promise<string[]> {
  if (what === 'files') return [':files']
  if (what === 'contexts') {
    const { readContexts } = await import('./contexts.ts')
    return (await readContexts(cli.home)).contexts.map(({ name }) => name)
  }
  if (what === undefined) return []
  await using client = await cli.client()
  using patience = deadline(cli.clock, patienceMs, cli.signal)
  const { signal } = patience
  if (what === 'nodes') return (await client.listNodes({}, { signal })).nodes.map(({ name }) => name)
  if (what === 'sandboxes') {
    const { sandboxes } = await client.listSandboxes({}, { signal })
    return sandboxes.flatMap(({ id, name }) => (name === undefined ? [id] : [id, name]))
  }
  if (what === 'templates') return (await client.listTemplates({}, { signal })).templates.map(({ name }) => name)
  if (what === 'builds') return (await client.listBuilds({ all: true }, { signal })).builds.map(({ id }) => id)
  const jobs = (await client.listJobs({}, { signal })).jobs.map(({ name }) => name)
  if (what === 'jobs') return jobs
  const { allocations } = await client.listAllocations({ live: true }, { signal })
  return [...jobs, ...allocations.map(({ id }) => id)]
}
