import type { Duplex, Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { Fault, StepFault, sentence } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import type { Node } from '../../model/node.ts'
import { type Build, type BuildLogLine, buildFailureOf } from '../../model/sandbox.ts'
import { askOfSandbox } from '../../placement/fit.ts'
import { placeSandbox } from '../../placement/sandbox.ts'
import type { Tx } from '../../store/store.ts'
import { parseLine, readLines } from '../../wire/lines.ts'
import { BuildLine } from '../../wire/sandbox-answers.ts'
import { newId } from '../control.ts'
import { addAudit, addEvent } from '../marks.ts'
import { buildLogWriter } from './build-log.ts'
import { findBuildFor } from './builds.ts'
import type { Desk } from './desk.ts'
import { failBuild, finishBuild, putBuild } from './rows.ts'
import { checkAlias, checkTag, putAlias, putTag } from './templates.ts'

export interface BuildWish {
  template: string
  tags: readonly string[]
  aliases?: readonly string[] | undefined
  /** Checked by whoever asks, and again by the node. */
  recipe: {
    from: { image: string } | { template: string }
    arch?: 'amd64' | 'arm64' | undefined
    cpus?: number | undefined
    memoryMiB?: number | undefined
    diskMiB?: number | undefined
    steps?: readonly unknown[] | undefined
    stages?: readonly { steps: readonly unknown[] }[] | undefined
  }
  noCache: boolean
  node?: string | undefined
  credentials?: { username: string; password: string } | undefined
  /** In base64; kept nowhere but here until the build ends. */
  secrets?: Readonly<Record<string, string>> | undefined
}

/** A build that waits for its context, or is under way. */
export interface Building {
  node: Node
  wish: BuildWish
  from: BuildId | undefined
  started: boolean
  cancel: AbortController
}

const mostPerNode = 4
const maxLineBytes = 2 ** 20

/** Finds a node and makes the row; nothing happens yet: `runBuild` starts it with its context. */
export async function beginBuild(
  desk: Desk,
  building: Map<BuildId, Building>,
  wish: BuildWish,
  { by }: { by: string },
): Promise<Build> {
  const { control } = desk
  const { view } = control.store
  const from = 'template' in wish.recipe.from ? findBuildFor(view, wish.recipe.from.template) : undefined
  const node = choose(desk, building, wish, from)
  const id = newId(control) as BuildId
  const { result } = await control.store.write((tx) => {
    for (const tag of wish.tags) checkTag(tx, { template: wish.template, tag })
    for (const alias of wish.aliases ?? []) checkAlias(tx, { template: wish.template, alias })
    const build = putBuild(tx, {
      ...{ id, reason: 'template', nodes: [node.id], by },
      template: wish.template,
      parent: from?.build.id ?? null,
      diskMiB: wish.recipe.diskMiB ?? null,
      steps: [wish.recipe, ...(wish.recipe.stages ?? [])].reduce((sum, { steps = [] }) => sum + steps.length, 0),
    })
    addAudit(tx, { by, action: 'template.build', subject: `${wish.template} ${id}` })
    return build
  })
  building.set(id, { node, wish, from: from?.build.id, started: false, cancel: new AbortController() })
  return result
}

/**
 * Streams the context to the node and what the node says into the log, until the build is ready or has failed. Resolves
 * with the row as it then is; never rejects for what the build does.
 */
export async function runBuild(
  desk: Desk,
  building: Map<BuildId, Building>,
  id: BuildId,
  context: Readable | undefined,
): Promise<Build> {
  const { control, nodes } = desk
  const entry = building.get(id)
  if (!entry) throw new Fault('conflict', `build ${id} does not wait for its context; begin another`)
  if (entry.started) throw new Fault('conflict', `build ${id} has its context already`)
  entry.started = true
  const { wish, node, from, cancel } = entry
  const signal = AbortSignal.any([desk.signal, cancel.signal])
  const log = buildLogWriter(control, id)
  try {
    const request = {
      build: id,
      template: wish.template,
      recipe: wish.recipe,
      noCache: wish.noCache,
      ...(from === undefined ? {} : { from }),
      ...(wish.credentials === undefined ? {} : { credentials: wish.credentials }),
      ...(wish.secrets === undefined ? {} : { secrets: wish.secrets }),
    }
    const built = await desk.meter.time('build', async () => {
      const stream = await nodes.open(node.id, 'build', request, { signal })
      const sent = send(stream, context)
      const heard = await listen(stream, (line) => log.add(line))
      await sent
      return heard
    })
    await log.close()
    await control.store.write((tx) => {
      const { machine, diskMiB, addedBytes, compat } = built
      const known = tx.get('builds', id)
      finishBuild(tx, id, node.id, {
        machine,
        diskMiB: diskMiB ?? known?.diskMiB ?? null,
        addedBytes: addedBytes ?? null,
        ...(compat === undefined ? {} : { compat }),
      })
      if (tx.get('builds', id)?.status !== 'ready') return
      nameBuild(tx, id, wish)
      addEvent(tx, {
        level: 'info',
        kind: 'template.built',
        build: id,
        node: node.id,
        message: `template "${wish.template}" was built: ${id}`,
      })
    })
  } catch (error) {
    await log.close().catch(() => {})
    if (!desk.signal.aborted) await fail(desk, id, entry, error)
  } finally {
    building.delete(id)
  }
  const row = control.store.view.get('builds', id)
  if (!row) throw new Fault('not_found', `build ${id} was deleted meanwhile`)
  return row
}

/** Names that became another's while it was built are left to that, and told of: the build itself is good. */
function nameBuild(tx: Tx, id: BuildId, { template, tags, aliases = [] }: BuildWish): void {
  for (const tag of tags) putTag(tx, { template, tag }, id)
  for (const alias of aliases) {
    if (putAlias(tx, { template, alias })) continue
    addEvent(tx, {
      level: 'warning',
      kind: 'template.unnamed',
      build: id,
      message: `template "${template}" is not called "${alias}" as well: another template has that name by now`,
    })
  }
}

/** Gives up one that is under way, or that waits for its context. */
export function cancelBuild(desk: Desk, building: Map<BuildId, Building>, id: BuildId, reason: Error): void {
  const entry = building.get(id)
  if (!entry) return
  entry.cancel.abort(reason)
  if (entry.started) return
  building.delete(id)
  fail(desk, id, entry, reason).catch((error: unknown) =>
    desk.control.log.error({ err: error, build: id }, 'the end of a build could not be recorded'),
  )
}

async function fail({ control }: Desk, id: BuildId, { wish, node }: Building, error: unknown): Promise<void> {
  const why = sentence(error)
  await control.store.write((tx) => {
    if (tx.get('builds', id)?.status !== 'building') return
    failBuild(tx, id, why, buildFailureOf(error))
    addEvent(tx, {
      level: 'error',
      kind: 'template.failed',
      build: id,
      node: node.id,
      message: `template "${wish.template}" could not be built: ${why}`.slice(0, 2000),
    })
  })
}

/** After a start nobody feeds these any more. */
export async function failOrphanedBuilds({ control }: Pick<Desk, 'control'>): Promise<void> {
  await control.store.write((tx) => {
    for (const build of [...tx.all('builds')]) {
      // One of a pause settles with its sandbox.
      if (build.status === 'building' && build.reason !== 'pause')
        failBuild(tx, build.id, 'the control plane was started anew while it was built; build it again', 'unavailable')
    }
  })
}

/** A context that breaks off must not look like a whole one. */
async function send(stream: Duplex, context: Readable | undefined): Promise<void> {
  if (!context) return void stream.end()
  // The node may say what is wrong before it has read everything; that is then the better reason.
  await pipeline(context, stream, { end: true }).catch((error: unknown) => {
    stream.destroy(new Fault('unavailable', `the build context broke off: ${sentence(error)}`))
  })
}

async function listen(stream: Duplex, log: (line: BuildLogLine) => void) {
  for await (const text of readLines(stream, maxLineBytes)) {
    if (text.trim() === '') continue
    const line = BuildLine.safeParse(parseLine(text, 'what the node says of the build'))
    if (!line.success) throw new Fault('unavailable', 'what the node says of the build cannot be understood')
    if ('log' in line.data) log(line.data.log)
    else if ('built' in line.data) return line.data.built
    else {
      const { code, message, step = false } = line.data.fault
      throw step ? new StepFault(code, message) : new Fault(code, message)
    }
  }
  throw new Fault('unavailable', 'the node broke the build off without saying why')
}

function choose(
  desk: Desk,
  building: ReadonlyMap<BuildId, Building>,
  { recipe, node, template }: BuildWish,
  from: ReturnType<typeof findBuildFor> | undefined,
): Node {
  const memory = (recipe.memoryMiB ?? 512) * 2 ** 20
  const busy = (id: string) => [...building.values()].filter((each) => each.node.id === id).length
  const crowded = new Set([...building.values()].map((each) => each.node.id).filter((id) => busy(id) >= mostPerNode))
  const arch = recipe.arch ?? from?.machine.arch
  const place = placeSandbox(
    desk.usage,
    {
      machine: arch ? { arch, cpus: 1, memoryMiB: 1 } : null,
      nodes: from?.nodes ?? null,
      compat: '',
      node,
      askOf: () => askOfSandbox({ reserved: { memory, cpuMHz: 0 } }),
      waiting: (each) => desk.starts.load(each.id) + 8 * busy(each.id),
      without: crowded,
    },
    Math.floor(desk.control.random.fraction() * 2 ** 32),
  )
  if ('node' in place) return place.node
  throw new Fault(place.isFull ? 'exhausted' : 'unavailable', `no node can build "${template}": ${place.problem}`)
}
