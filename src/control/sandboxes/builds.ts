import { Fault } from '../../model/fault.ts'
import type { BuildId, NodeId } from '../../model/ids.ts'
import type { Build, MachineShape, Sandbox, Template } from '../../model/sandbox.ts'
import type { View } from '../../store/store.ts'

/** A build that sandboxes can be started from, and where. */
export interface Startable {
  build: Build
  template: string | null
  machine: MachineShape
  nodes: ReadonlySet<string>
}

/** `base`, `base:tag`, an alias of it, or the id of a build. */
export function findBuildFor(view: View, reference: string): Startable {
  const { build, template } = resolve(view, reference)
  const of = template === undefined ? '' : ` of "${reference}"`
  if (build.status !== 'ready') {
    const how: Record<Exclude<Build['status'], 'ready'>, string> = {
      building: 'is still being built; "tutti template logs" shows how far it is',
      failed: `failed: ${build.error ?? 'it does not say why'}`,
      deleting: 'is being deleted',
    }
    throw new Fault('conflict', `build ${build.id}${of} ${how[build.status]}`)
  }
  const machine = build.machine
  if (!machine) throw new Fault('conflict', `build ${build.id}${of} does not say what machine it is of; build it anew`)
  return { build, template: template?.name ?? build.template, machine, nodes: nodesWith(view, build) }
}

export function resolve(view: View, reference: string): { build: Build; template?: Template } {
  const [name = '', tag = 'latest'] = reference.split(':')
  const template = templateOf(view, name)
  if (template) {
    const id = template.tags[tag]
    const build = id && view.get('builds', id)
    if (build) return { build, template }
    const tags = Object.keys(template.tags)
    const has = tags.length === 0 ? 'it has not been built yet' : `there are ${tags.slice(0, 10).join(', ')}`
    throw new Fault('not_found', `template "${template.name}" has no build "${tag}"; ${has}`)
  }
  const build = view.get('builds', reference)
  if (build) return { build }
  const known = [...view.all('templates')].map((each) => each.name)
  const help =
    known.length === 0
      ? 'there is none yet: "tutti template build" makes one'
      : `there are ${known.sort().slice(0, 10).join(', ')}${known.length > 10 ? ', …' : ''}`
  throw new Fault('not_found', `there is no template "${name}"; ${help}`)
}

export function templateOf(view: View, name: string): Template | undefined {
  const own = view.get('templates', name)
  if (own) return own
  for (const template of view.all('templates')) if (template.aliases.includes(name)) return template
  return undefined
}

export function findTemplate(view: View, name: string): Template {
  const template = templateOf(view, name)
  if (template) return template
  throw new Fault('not_found', `there is no template "${name}"; "tutti template list" shows those there are`)
}

export function findBuild(view: View, reference: string): Build {
  const exact = view.get('builds', reference)
  if (exact) return exact
  const [name = ''] = reference.split(':')
  if (templateOf(view, name)) return resolve(view, reference).build
  const found = reference.length < 4 ? [] : [...view.all('builds')].filter((build) => build.id.startsWith(reference))
  const [first] = found
  if (first && found.length === 1) return first
  if (!first) throw new Fault('not_found', `there is no build "${reference}"; "tutti build list" shows those there are`)
  throw new Fault('conflict', `"${reference}" could be any of ${found.length} builds; give more of the id`)
}

/** Nodes that have it, and those that share the store that it lies in. */
export function nodesWith(view: View, build: Build): ReadonlySet<NodeId> {
  const nodes = new Set(build.nodes)
  if (build.store === '') return nodes
  for (const node of view.all('nodes'))
    if (node.facts?.drivers.sandbox?.attributes.store === build.store) nodes.add(node.id)
  return nodes
}

/** What a paused sandbox goes on from lies in a shared store, or on the disk of another node than its own. */
export function isElsewhere(view: Pick<View, 'get'>, { pausedBuild, node }: Sandbox): boolean {
  const build = pausedBuild && view.get('builds', pausedBuild)
  return build ? build.store !== '' || build.nodes.some((id) => id !== node) : false
}

/** Pauses and forks leave builds that only their sandboxes need. */
export function isNeeded(view: View, id: BuildId): boolean {
  for (const _ of view.by('sandboxesByBuild', id)) return true
  for (const _ of view.by('sandboxesByPausedBuild', id)) return true
  return false
}
