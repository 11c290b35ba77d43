import type { Defaults, Manifest } from '../../blocks/manifest.ts'
import { attributesOf, ownersOf } from '../../images/owners.ts'
import { Fault, StepFault } from '../../model/fault.ts'
import { BuildId, encodeId } from '../../model/ids.ts'
import type { Selected } from '../../recipe/context/select-source.ts'
import type { BuildScope } from '../build-template.ts'
import type { ReceivedEntry } from '../context/receive-context.ts'
import { copyFiles } from '../copy/copy-files.ts'
import { imageFiles } from '../copy/image-files.ts'
import { selectFrom } from '../copy/other-files.ts'
import { explainingFullDisk } from '../full-disk.ts'
import { findLayer, layerReference } from '../layers.ts'
import { type BuildMachine, lastLines, startMachine } from '../machine.ts'
import { CacheStore } from '../mounts/cache-store.ts'
import { hideSecrets } from '../mounts/hide-secrets.ts'
import { layMounts } from '../mounts/lay-mounts.ts'
import { fetchPromised } from '../stages/files-elsewhere.ts'
import type { StagePlan } from '../stages/plan-stages.ts'
import type { Exports } from '../stages/take-stages.ts'
import { type CopyAction, type PlannedStep, shaped } from './plan-steps.ts'
import { isMissing, ownSurroundings, runCommand } from './run-command.ts'

export interface StepsTaken {
  /** The disk after the last step. */
  layer: BuildId
  defaults: Defaults
}

export interface TakeOptions extends BuildScope {
  plan: StagePlan
  /** What was taken out of the stages before. */
  exports: Exports
  /** Of all stages, for people. */
  stepsInAll: number
  /** Called with the machine in which everything is done, before it ends. */
  atEnd: ((guest: BuildMachine) => Promise<void>) | undefined
}

/**
 * Takes all steps of a stage that no earlier build has taken, in one machine. After each that changes the disk, the disk is
 * stored as a layer; so what a build has come to is found by the next, also when a later step failed.
 */
export async function takeSteps(scope: TakeOptions): Promise<StepsTaken> {
  const { plan, stepsInAll, machine, report, atEnd } = scope
  const { base, steps } = plan
  const label = ({ number }: PlannedStep) => `${plan.stepsBefore + number}/${stepsInAll}`
  const found = await lastLayer(scope, steps)
  const done = found?.step.number ?? 0
  for (const step of steps.slice(0, done)) report(label(step), `CACHED ${step.text}`)
  const left = steps.slice(done)
  let layer = found?.layer.id ?? (await base.layer()).id
  const defaults = steps.at(-1)?.after ?? base.defaults
  const [next] = left
  if (left.every(({ action }) => action.kind === 'none') && !atEnd) {
    for (const step of left) report(label(step), step.text)
    return { layer, defaults }
  }
  report(next ? label(next) : 'stage', next ? 'booting a machine for the steps' : 'booting a machine to copy from')
  await using guest = await startMachine(scope.parts, {
    name: `s-${scope.build}`,
    from: layer,
    machine,
    withNetwork: next !== undefined,
    signal: scope.signal,
  })
  for (const step of left) {
    report(label(step), step.text)
    await explainingFullDisk(scope.directory, scope, async () => {
      await withPlace(scope, step, () => act(scope, guest, step, label(step)))
      if (step.action.kind !== 'none') layer = await storeLayer(scope, guest, step, layer)
    })
  }
  await atEnd?.(guest)
  return { layer, defaults }
}

/** The last step whose outcome is here. Without the cache only what this build itself has made counts. */
export async function lastLayer(scope: BuildScope, steps: readonly PlannedStep[]) {
  for (const [at, step] of [...steps.entries()].toReversed()) {
    if (step.action.kind === 'none' || (scope.noCache && !scope.made.has(step.key))) continue
    const layer: Manifest | undefined = await findLayer(scope, step.key)
    if (!layer) continue
    // Those before it are in use as well: the next build may change this step.
    for (const earlier of steps.slice(0, at)) if (earlier.action.kind !== 'none') await findLayer(scope, earlier.key)
    return { step, layer }
  }
  return undefined
}

/** What goes wrong says where it is written. */
export async function withPlace<T>({ signal }: BuildScope, step: PlannedStep, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    signal.throwIfAborted()
    const { code, message } = Fault.from(error)
    if (code === 'internal') throw error
    const Kind = error instanceof StepFault ? StepFault : Fault
    throw new Kind(code, `${step.place}: ${step.text}: ${message}`, {
      cause: error instanceof Fault ? error.cause : error,
    })
  }
}

async function act(scope: TakeOptions, { channel }: BuildMachine, step: PlannedStep, label: string): Promise<void> {
  const { action, before } = step
  const { report, directory, signal } = scope
  if (action.kind === 'copy') {
    const sources = await sourcesOf(scope, step.key, action)
    const { files, bytes, stripped } = await copyFiles(channel, {
      ...action,
      sources,
      cwd: before.cwd,
      directory,
      signal,
    })
    report(label, `${files} file${files === 1 ? '' : 's'}, ${bytes} bytes`)
    if (stripped > 0)
      report(
        label,
        `extended attributes of ${stripped} files are lost, since the image has no GNU tar to write them`,
        'warn',
      )
  } else if (action.kind === 'directory') {
    await makeDirectory(channel, action.path, signal)
  } else if (action.kind === 'run') {
    await runStep(scope, channel, { action, before, key: step.key, label })
  }
}

/** A command with its mounts, which are taken away again whatever it comes to. */
async function runStep(
  scope: TakeOptions,
  channel: BuildMachine['channel'],
  step: { action: Extract<PlannedStep['action'], { kind: 'run' }>; before: Defaults; key: string; label: string },
): Promise<void> {
  const { report, recipe, directory, template, parts, secrets = {}, signal } = scope
  const { action, before, key, label } = step
  const { command, args, mounts = [] } = action
  const laid = await layMounts(channel, {
    ...{ mounts, key, secrets, template, directory, signal },
    caches: new CacheStore({ directory: parts.cachesDirectory, clock: parts.clock }),
    sourcesOf: (of, copy) => sourcesOf(scope, of, copy),
    warn: (message) => report(label, message, 'warn'),
  })
  const { code, output } = await runCommand(channel, {
    ...{ command, args: { ...args, ...laid.env }, surroundings: before, signal },
    hide: mounts.length === 0 ? undefined : hideSecrets(secrets),
    onLine: (line) => report(label, line, 'output'),
  })
  if (mounts.length > 0) await laid.takeAway()
  if (code === 0) return
  const said = output.length > 0 ? `: ${lastLines(output.join('\n'), 5)}` : ', and said nothing'
  if (/no space left on device/i.test(output.join('\n')))
    throw new StepFault(
      'exhausted',
      `the disk of the template is full at ${recipe.diskMiB} MiB; ask for a larger one${said}`,
    )
  throw new StepFault('invalid', `failed with exit code ${code}${said}`)
}

/** What a COPY or ADD brings, wherever it comes from. */
async function sourcesOf(
  scope: TakeOptions,
  key: string,
  action: CopyAction,
): Promise<readonly Selected<ReceivedEntry>[]> {
  const { from } = action
  if (from && 'image' in from) {
    const { rootfs } = await scope.obtainImage(from.image)
    const files = imageFiles(
      rootfs,
      { owners: await ownersOf(rootfs), attributes: await attributesOf(rootfs) },
      scope.signal,
    )
    return shaped(await selectFrom(files, action.wanted, `image "${from.image}"`), action)
  }
  if (from) {
    const files = scope.exports.get(key)
    if (!files) throw new Error('a stage was left without being copied from')
    return shaped(files, action)
  }
  return Promise.all(
    action.sources.map(async (source) =>
      source.found.kind === 'file'
        ? { ...source, found: { ...source.found, entry: await fetchPromised(scope, source.found.entry) } }
        : source,
    ),
  )
}

async function makeDirectory(channel: BuildMachine['channel'], path: string, signal: AbortSignal): Promise<void> {
  if (path === '/') return
  const missing = { code: 127, output: [] }
  const { code, output } = await runCommand(channel, {
    command: ['mkdir', '-p', '--', path],
    surroundings: ownSurroundings,
    signal,
  }).catch((error: unknown) => (isMissing(error) ? missing : Promise.reject(error)))
  // Images of one program have no tools at all.
  if (code === 127) return channel.files.makeDirectory(path, { signal })
  if (code !== 0) throw new Fault('invalid', `the directory cannot be made: ${lastLines(output.join('\n'), 2)}`)
}

/** The disk as it is now, under the step's name; what had the name before loses it. */
async function storeLayer(
  scope: BuildScope,
  guest: BuildMachine,
  step: PlannedStep,
  parent: BuildId,
): Promise<BuildId> {
  const { parts, machine, signal } = scope
  const build = BuildId.parse(encodeId(parts.random.bytes(10)))
  const epoch = await guest.cut({ signal })
  await parts.blocks.ask(
    'store',
    {
      build,
      reason: 'layer',
      parent,
      createdAt: parts.clock.now(),
      machine,
      defaults: step.after,
      disk: { name: guest.disk, epoch },
      snapshot: null,
      reference: layerReference(step.key),
    },
    { signal },
  )
  scope.made.add(step.key)
  return build
}
