import { Fault, sentence } from '../../model/fault.ts'
import type { BuildId, SandboxId } from '../../model/ids.ts'
import type { Node } from '../../model/node.ts'
import { type Egress, isOver, type Sandbox, type TimeoutAction } from '../../model/sandbox.ts'
import { askOfSandbox, fit } from '../../placement/fit.ts'
import { placeSandbox } from '../../placement/sandbox.ts'
import type { Tx } from '../../store/store.ts'
import { newId } from '../control.ts'
import { addAudit } from '../marks.ts'
import { usedOf } from '../usage.ts'
import { askNode } from './ask.ts'
import { findBuildFor, type Startable } from './builds.ts'
import { type Asked, type Desk, occupy } from './desk.ts'
import { putEnvironment } from './environment.ts'
import { endOnNode } from './kill.ts'
import { deleteRow, enter, epochOf, expiryFrom, specOf, tell, wrongPhase } from './rows.ts'
import { startsOf } from './starts.ts'

export interface Wanted {
  /** A template, an alias, either with a tag, or the id of a build. */
  from: string
  node?: string | undefined
  name?: string | undefined
  metadata: Record<string, string>
  env: Record<string, string>
  user?: string | undefined
  cwd?: string | undefined
  /** MHz to be reserved. */
  cpu: number
  timeoutMs: number | null
  onTimeout: TimeoutAction
  autoResume: boolean
  egress: Egress
}

/** Nodes that are tried in all before whoever asks is told. */
const mostTries = 3

/**
 * Creates a sandbox and resolves when it answers: a place is found and reserved in the commit that makes the row, the
 * node is asked, the outcome is committed. What did not come to be leaves no row, only an event.
 */
export async function createSandbox(desk: Desk, wanted: Wanted, asked: Asked): Promise<Sandbox> {
  const refused = new Set<string>()
  for (let tries = 1; ; tries += 1) {
    const from = findBuildFor(desk.control.store.view, wanted.from)
    const id = newId(desk.control) as SandboxId
    const place = choose(desk, id, from, wanted, refused)
    try {
      using _turn = await desk.starts.take(place, startsOf(place), asked.by, asked.signal)
      return await occupy(desk, id, 'create', () => start(desk, { id, place, from, wanted, asked }))
    } catch (error) {
      const { code } = Fault.from(error)
      // Nodes that share a store do not have the builds of the others until they have been brought there.
      const elsewhere = code === 'exhausted' || code === 'unavailable' || code === 'not_found'
      if (!elsewhere || tries >= mostTries || asked.signal.aborted || desk.signal.aborted) throw error
      refused.add(place.id)
      if (!hasOther(desk, from, wanted, refused)) throw error
    } finally {
      if (!desk.control.store.view.get('sandboxes', id)) desk.usage.remove({ id })
    }
  }
}

/**
 * What a sandbox holds of a node. Clones share what they have not changed, so memory is reserved at a part of what the
 * guest may use: a quarter, unless the node's owner says otherwise (`overcommit`). The node itself looks at what is
 * really free.
 */
export function reservation(node: Node, memoryMiB: number, cpuMHz: number): Sandbox['reserved'] {
  const said = Number(node.facts?.drivers.sandbox?.attributes.overcommit)
  const overcommit = said >= 1 ? said : 4
  return { memory: Math.ceil((memoryMiB * 2 ** 20) / overcommit), cpuMHz }
}

/** Holds the room until the row does, or until it is given back. */
function choose(desk: Desk, id: SandboxId, from: Startable, wanted: Wanted, without: ReadonlySet<string>): Node {
  const place = placeSandbox(desk.usage, wish(desk, from, wanted, without), seedOf(desk))
  if ('problem' in place) {
    throw new Fault(
      place.isFull ? 'exhausted' : 'unavailable',
      `no node can take a sandbox of "${wanted.from}": ${place.problem}`,
    )
  }
  desk.usage.hold(id, place.node.id, place.ask)
  return place.node
}

function hasOther(desk: Desk, from: Startable, wanted: Wanted, without: ReadonlySet<string>): boolean {
  return !('problem' in placeSandbox(desk.usage, wish(desk, from, wanted, without), seedOf(desk)))
}

function wish(desk: Desk, from: Startable, wanted: Wanted, without: ReadonlySet<string>) {
  return {
    machine: from.machine,
    nodes: from.nodes,
    compat: from.build.compat,
    node: wanted.node,
    askOf: (node: Node) => askOfSandbox({ reserved: reservation(node, from.machine.memoryMiB, wanted.cpu) }),
    waiting: (node: Node) => desk.starts.load(node.id),
    without,
  }
}

function seedOf({ control }: Desk): number {
  return Math.floor(control.random.fraction() * 2 ** 32)
}

interface Begun {
  id: SandboxId
  place: Node
  from: Startable
  wanted: Wanted
  asked: Asked
}

async function start(desk: Desk, begun: Begun): Promise<Sandbox> {
  const { control, nodes } = desk
  const { id, place, from, wanted, asked } = begun
  const { result: row } = await control.store.write((tx) => putNew(tx, begun))
  try {
    const signal = AbortSignal.any([asked.signal, desk.signal])
    await askNode(nodes, place.id, { op: 'create', spec: specOf(row, from.build.id, wanted.env) }, { signal })
    return await confirm(desk, id)
  } catch (error) {
    if (desk.signal.aborted) throw error
    await withdraw(desk, row, error)
    throw error
  }
}

function putNew(tx: Tx, { id, place, from, wanted, asked }: Begun): Sandbox {
  const node = tx.get('nodes', place.id)
  const row: Sandbox = {
    id,
    phase: 'creating',
    node: place.id,
    epoch: epochOf(tx, place.id),
    build: from.build.id,
    template: from.template,
    parent: null,
    ...(wanted.name === undefined ? {} : { name: wanted.name }),
    metadata: wanted.metadata,
    cpus: from.machine.cpus,
    memoryMiB: from.machine.memoryMiB,
    reserved: reservation(place, from.machine.memoryMiB, wanted.cpu),
    timeoutMs: wanted.timeoutMs,
    expiresAt: expiryFrom(tx.now, wanted),
    onTimeout: wanted.onTimeout,
    autoResume: wanted.autoResume,
    egress: wanted.egress,
    egressPending: false,
    ...(wanted.user === undefined ? {} : { user: wanted.user }),
    ...(wanted.cwd === undefined ? {} : { cwd: wanted.cwd }),
    pausedBuild: null,
    createdAt: tx.now,
    changedAt: tx.now,
    by: asked.by,
  }
  if (node?.phase !== 'ready')
    throw new Fault('unavailable', `node "${place.name}" went away while the sandbox was placed on it; try again`)
  if (tx.get('builds', from.build.id)?.status !== 'ready') throw goneBuild(from.build.id)
  const refusal = fit(node, usedOf(tx, place.id), askOfSandbox(row))
  if (refusal) throw new Fault('exhausted', `node "${place.name}" ${refusal.words[0]} by now; try again`)
  const [other] = wanted.name === undefined ? [] : tx.by('sandboxesByName', wanted.name)
  if (other)
    throw new Fault(
      'conflict',
      `there is a sandbox "${wanted.name}" already, ${other.id}, which is ${other.phase}; kill it, or choose another name`,
    )
  tx.put('sandboxes', row)
  putEnvironment(tx, id, wanted.env)
  addAudit(tx, { by: asked.by, action: 'sandbox.create', subject: id })
  return row
}

function goneBuild(build: BuildId): Fault {
  return new Fault('not_found', `build ${build} was deleted while a sandbox was to be made of it`)
}

/** It answers. Somebody may have killed it meanwhile. */
async function confirm(desk: Desk, id: SandboxId): Promise<Sandbox> {
  const { result } = await desk.control.store.write((tx) => {
    const row = tx.get('sandboxes', id)
    if (!row) throw new Fault('conflict', `sandbox ${id} was removed while it was being created`)
    if (row.phase !== 'creating') return row
    const next = enter(tx, row, 'running', { expiresAt: expiryFrom(tx.now, row) })
    tell(tx, next, 'created', `sandbox ${id} was created by ${row.by}${row.template ? ` from "${row.template}"` : ''}`)
    return next
  })
  if (result.phase === 'running') return result
  void endOnNode(desk, result)
  throw wrongPhase(result, 'created')
}

/** Nothing half-made stays: no row, nothing on the node, and one event that says why. */
async function withdraw(desk: Desk, row: Sandbox, error: unknown): Promise<void> {
  await desk.control.store.write((tx) => {
    const current = tx.get('sandboxes', row.id)
    if (!current) return
    if (!isOver(current.phase)) deleteRow(tx, row.id)
    tell(
      tx,
      row,
      'failed',
      `a sandbox of "${row.template ?? row.build}" could not be created: ${sentence(error)}`,
      'error',
    )
  })
  void endOnNode(desk, row)
}
