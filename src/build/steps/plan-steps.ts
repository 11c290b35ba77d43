import { createHash } from 'node:crypto'
import { posix } from 'node:path'
import type { Defaults } from '../../blocks/manifest.ts'
import { Fault } from '../../model/fault.ts'
import { type Selected, selectSource } from '../../recipe/context/select-source.ts'
import { excludeFiles, keepParents } from '../../recipe/context/shape-selected.ts'
import { ExpandError, expand } from '../../recipe/expand.ts'
import { isUrl, type Mount, type PlacedStep, type Step } from '../../recipe/recipe.ts'
import { parseSymbolicMode } from '../../recipe/symbolic-mode.ts'
import type { ReceivedEntry } from '../context/receive-context.ts'

/** A step that is to happen: what it does, in which surroundings, and the name of what comes out of it. */
export interface PlannedStep {
  number: number
  place: string
  text: string
  action: Action
  /** Environment, user and directory in which it happens. */
  before: Defaults
  /** The same, as it leaves them. */
  after: Defaults
  /** Names the disk after it, together with all that came before. */
  key: string
}

/** What has to be done to the disk; nothing for steps that only change the surroundings. */
export type Action =
  | { kind: 'run'; command: string | string[]; args: Record<string, string>; mounts?: PlannedMount[] }
  | CopyAction
  | { kind: 'directory'; path: string }
  | { kind: 'none' }

export interface CopyAction {
  kind: 'copy'
  /** Where it copies from instead of the context; what `wanted` names there is looked up when the step is taken. */
  from: Origin | undefined
  wanted: readonly string[]
  sources: readonly Selected<ReceivedEntry>[]
  to: string
  owner: string | undefined
  mode: number | string | undefined
  unpack: boolean
  /** What is still to be done with what comes from elsewhere; with files of the context it is done. */
  exclude?: readonly string[]
  parents?: true
}

/** What a command finds while it runs; paths are absolute. The files of a bind are copied to a place of their own first. */
export type PlannedMount =
  | Exclude<Mount, { kind: 'bind' }>
  | { kind: 'bind'; to: string; writable: boolean; copy: CopyAction }

/** All that a step brings from elsewhere, each under a key of its own. */
export function copiesOf({ action, key }: PlannedStep): { key: string; copy: CopyAction }[] {
  if (action.kind === 'copy') return [{ key, copy: action }]
  if (action.kind !== 'run') return []
  return (action.mounts ?? []).flatMap((mount, at) =>
    mount.kind === 'bind' ? [{ key: mountKey(key, at), copy: mount.copy }] : [],
  )
}

/** Of what the mount at a place in the list brings. */
export function mountKey(key: string, at: number): string {
  return `${key}-${at}`
}

/** A file system that COPY takes from, and what it is the same by. */
export type Origin = { key: string } & ({ stage: number } | { image: string })

export interface PlanOptions {
  steps: readonly PlacedStep[]
  tree: ReadonlyMap<string, ReceivedEntry>
  /** Of the image or template that the steps begin from. */
  defaults: Defaults
  arch: string
  /** Names the disk that the steps begin from. */
  baseKey: string
  /** What the image's own ONBUILD instructions declare with ARG; the steps after them see it. */
  args?: Readonly<Record<string, string>>
  elsewhere: Elsewhere
}

/** Where files come from that are not in the context. */
export interface Elsewhere {
  origin(from: { stage: number } | { image: string }): Promise<Origin>
  /** What a URL leads to; with a checksum it is fetched only when the step is taken. */
  fetch(url: string, checksum: string | undefined): Promise<ReceivedEntry>
  /** A file of the recipe itself. */
  write(name: string, text: string): Promise<ReceivedEntry>
}

/**
 * Works out all steps before any is begun: variables, files, and the chain of keys. Two recipes whose steps have the same
 * key come to the same disk, as far as commands do the same when they are run again.
 */
export async function planSteps({ steps, defaults, baseKey, ...options }: PlanOptions): Promise<PlannedStep[]> {
  let before = defaults
  let key = baseKey
  const plan: PlannedStep[] = []
  for (const [at, { step, place, text }] of steps.entries()) {
    const planned = await placed(place, () => planStep(step, before, options))
    // Surroundings that a step does not see must not make it another one, so they count only where something happens.
    const { kind } = planned.action
    const seen = kind === 'run' ? before : kind === 'copy' ? before.cwd : null
    key = createHash('sha256')
      .update(JSON.stringify([key, describe(planned.action), seen]))
      .digest('hex')
    plan.push({ number: at + 1, place, text, before, key, ...planned })
    before = planned.after
  }
  return plan
}

/** Names the disk of an image, before any step. */
export function imageKey(digest: string, diskMiB: number): string {
  return createHash('sha256')
    .update(JSON.stringify(['image', 1, digest, diskMiB]))
    .digest('hex')
}

/** Names the disk of another build. */
export function buildKey(build: string): string {
  return createHash('sha256')
    .update(JSON.stringify(['build', 1, build]))
    .digest('hex')
}

type PlanSurroundings = Pick<PlanOptions, 'tree' | 'arch' | 'args' | 'elsewhere'>

async function planStep(
  step: Step,
  before: Defaults,
  options: PlanSurroundings,
): Promise<Pick<PlannedStep, 'action' | 'after'>> {
  const { arch, args: declared = {} } = options
  const automatic: Record<string, string> = { TARGETARCH: arch }
  const fromImage = (text: string) =>
    expand(text, (name) => (Object.hasOwn(before.env, name) ? before.env[name] : automatic[name]))
  const known: Record<string, string> = { ...automatic, ...mapValues(declared, fromImage) }
  const read = (text: string) =>
    expand(text, (name) =>
      Object.hasOwn(before.env, name) ? before.env[name] : Object.hasOwn(known, name) ? known[name] : undefined,
    )
  const nothing: Action = { kind: 'none' }
  switch (step.kind) {
    case 'run': {
      const mounts = await Promise.all((step.mounts ?? []).map((mount) => planMount(mount, before, read, options)))
      const args = mapValues({ ...declared, ...step.args }, read)
      const action: Action = { kind: 'run', command: step.command, args, ...(mounts.length === 0 ? {} : { mounts }) }
      return { action, after: before }
    }
    case 'env':
      return { action: nothing, after: { ...before, env: { ...before.env, ...mapValues(step.values, read) } } }
    case 'user': {
      const user = read(step.user)
      if (user === '') throw new Fault('invalid', `"${step.user}" names no user`)
      return { action: nothing, after: { ...before, user } }
    }
    case 'workdir': {
      const path = posix.resolve('/', before.cwd, read(step.path))
      return { action: { kind: 'directory', path }, after: { ...before, cwd: path } }
    }
    case 'copy':
      return { action: await planCopyStep(step, read, options), after: before }
  }
}

async function planMount(
  mount: Mount,
  { cwd }: Defaults,
  read: (text: string) => string,
  options: PlanSurroundings,
): Promise<PlannedMount> {
  const at = (path: string) => posix.resolve('/', cwd, read(path))
  if (mount.kind === 'secret')
    return { ...mount, id: read(mount.id), ...(mount.to === undefined ? {} : { to: at(mount.to) }) }
  const to = at(mount.to)
  if (to === '/') throw new Fault('invalid', 'nothing can be mounted over the whole file system')
  if (mount.kind === 'cache') return { ...mount, to, id: read(mount.id) }
  if (mount.kind === 'tmpfs') return { ...mount, to }
  const { source, from, writable } = mount
  const step = { kind: 'copy' as const, sources: [source === '' ? '/' : source], from, to: '/', unpack: false }
  const copy = await planCopyStep(step, read, options)
  if (!from && copy.sources.length !== 1)
    throw new Fault(
      'invalid',
      `"${source}" names ${copy.sources.length} files, and a mount is of one file or directory`,
    )
  return { kind: 'bind', to, writable, copy }
}

async function planCopyStep(
  step: Extract<Step, { kind: 'copy' }>,
  read: (text: string) => string,
  { tree, elsewhere }: PlanSurroundings,
): Promise<CopyAction> {
  const { owner, mode, unpack, inline = [], checksum } = step
  const exclude = step.exclude?.map(read)
  const settings = { to: read(step.to), owner: owner && read(owner), mode, unpack }
  if (typeof mode === 'string' && !parseSymbolicMode(mode)) throw new Fault('invalid', `"${mode}" is no mode`)
  const named = step.sources.map(read)
  if (step.from) {
    const shape = { ...(exclude ? { exclude } : {}), ...(step.parents ? { parents: true as const } : {}) }
    const from = await elsewhere.origin(step.from)
    return { kind: 'copy', from, wanted: named, sources: [], ...settings, ...shape }
  }
  const sources: Selected<ReceivedEntry>[] = []
  for (const source of named) {
    if (unpack && isUrl(source)) {
      const entry = await elsewhere.fetch(source, checksum)
      if (entry.path === '' && settings.to.endsWith('/'))
        throw new Fault('invalid', `"${source}" ends without a name for the file; write one after "${settings.to}"`)
      sources.push({ name: entry.path, found: { kind: 'file', entry } })
      continue
    }
    const found = selectSource(tree, source)
    if (found.length === 0)
      throw new Fault('invalid', `cannot copy "${source}": the build context has nothing of that name`)
    const left = excludeFiles(found, exclude)
    sources.push(...(step.parents ? keepParents(left, (path) => tree.get(path) ?? plainDirectory(path)) : left))
  }
  for (const { name, text } of inline)
    sources.push({ name, found: { kind: 'file', entry: await elsewhere.write(name, read(text)) } })
  return { kind: 'copy', from: undefined, wanted: [], sources, ...settings }
}

/** What is copied from elsewhere, as its step wants it. */
export function shaped(
  sources: readonly Selected<ReceivedEntry>[],
  { exclude, parents }: Pick<CopyAction, 'exclude' | 'parents'>,
): Selected<ReceivedEntry>[] {
  const left = excludeFiles(sources, exclude)
  return parents ? keepParents(left, plainDirectory) : left
}

function plainDirectory(path: string): ReceivedEntry {
  return { path, type: 'directory', mode: 0o755, size: 0, changedAt: 0 }
}

/** What makes an action what it is: times of files do not. */
function describe(action: Action): unknown {
  if (action.kind === 'run' && action.mounts) {
    // A copy of a mount is the same wherever it is put; secrets and caches count by their names.
    const mounts = action.mounts.map((mount) =>
      mount.kind === 'bind' ? { ...mount, copy: describe(mount.copy) } : mount,
    )
    return { ...action, mounts }
  }
  if (action.kind !== 'copy') return action
  const { to, owner, mode: given, unpack, wanted, from } = action
  const settings = { kind: 'copy', to, owner, mode: given, unpack }
  const { exclude, parents } = action
  // Absent where they are not asked for: the keys of before stay.
  if (from) return { ...settings, from: from.key, sources: wanted, exclude, parents }
  const file = ({ type, mode, hash, target }: ReceivedEntry) => [type, mode, hash ?? null, target ?? null]
  const sources = action.sources.map(({ name, found }) =>
    found.kind === 'file' ? [name, file(found.entry)] : found.entries.map(({ below, entry }) => [below, file(entry)]),
  )
  return { ...settings, sources }
}

function mapValues(values: Readonly<Record<string, string>>, read: (text: string) => string): Record<string, string> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, read(value)]))
}

/** Mistakes say where they stand. */
async function placed<T>(place: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (error instanceof Fault) throw new Fault(error.code, `${place}: ${error.message}`, { cause: error.cause })
    if (error instanceof ExpandError) throw new Fault('invalid', `${place}: ${error.message}`)
    throw error
  }
}
