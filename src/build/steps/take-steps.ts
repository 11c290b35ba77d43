import type { Defaults, Manifest } from '../../blocks/manifest.ts'
import { Fault } from '../../model/fault.ts'
import { BuildId, encodeId } from '../../model/ids.ts'
import type { Base } from '../begin-from.ts'
import type { BuildScope } from '../build-template.ts'
import { copyFiles } from '../copy/copy-files.ts'
import { findLayer, layerReference } from '../layers.ts'
import { type BuildMachine, lastLines, startMachine } from '../machine.ts'
import { type PlannedStep, planSteps } from './plan-steps.ts'
import { ownSurroundings, runCommand } from './run-command.ts'

export interface StepsTaken {
  /** The disk after the last step. */
  layer: BuildId
  defaults: Defaults
}

/**
 * Takes all steps that no earlier build has taken, in one machine. After each that changes the disk, the disk is stored
 * as a layer; so what a build has come to is found by the next, also when a later step failed.
 */
export async function takeSteps(scope: BuildScope & { base: Base }): Promise<StepsTaken> {
  const { base, recipe, tree, machine, noCache, report } = scope
  const steps = planSteps({ steps: recipe.steps, tree, defaults: base.defaults, arch: machine.arch, baseKey: base.key })
  const label = ({ number }: PlannedStep) => `${number}/${steps.length}`
  const found = noCache ? undefined : await lastLayer(scope, steps)
  const done = found === undefined ? 0 : found.step.number
  for (const step of steps.slice(0, done)) report(label(step), `CACHED ${step.text}`)
  const left = steps.slice(done)
  let layer = found?.layer.id ?? base.layer.id
  const defaults = steps.at(-1)?.after ?? base.defaults
  const lastAction = left.findLast(({ action }) => action.kind !== 'none')?.number ?? 0
  if (lastAction === 0) {
    for (const step of left) report(label(step), step.text)
    return { layer, defaults }
  }
  report(`${done + 1}/${steps.length}`, 'booting a machine for the steps')
  await using guest = await startMachine(scope.parts, {
    name: `s-${scope.build}`,
    from: layer,
    machine,
    withNetwork: true,
    signal: scope.signal,
  })
  for (const step of left) {
    report(label(step), step.text)
    await takeStep(scope, guest, step, label(step))
    if (step.action.kind !== 'none') layer = await storeLayer(scope, guest, step, layer)
  }
  return { layer, defaults }
}

/** The last step whose outcome is here. */
async function lastLayer(scope: BuildScope, steps: readonly PlannedStep[]) {
  for (const [at, step] of [...steps.entries()].toReversed()) {
    if (step.action.kind === 'none') continue
    const layer: Manifest | undefined = await findLayer(scope, step.key)
    if (!layer) continue
    // Those before it are in use as well: the next build may change this step.
    for (const earlier of steps.slice(0, at)) if (earlier.action.kind !== 'none') await findLayer(scope, earlier.key)
    return { step, layer }
  }
  return undefined
}

async function takeStep(scope: BuildScope, guest: BuildMachine, step: PlannedStep, label: string): Promise<void> {
  try {
    await act(scope, guest, step, label)
  } catch (error) {
    scope.signal.throwIfAborted()
    const { code, message } = Fault.from(error)
    if (code === 'internal') throw error
    throw new Fault(code, `${step.place}: ${step.text}: ${message}`, {
      cause: error instanceof Fault ? error.cause : error,
    })
  }
}

async function act(scope: BuildScope, { channel }: BuildMachine, step: PlannedStep, label: string): Promise<void> {
  const { action, before } = step
  const { report, recipe, directory, signal } = scope
  if (action.kind === 'copy') {
    const { files, bytes } = await copyFiles(channel, { ...action, cwd: before.cwd, directory, signal })
    report(label, `${files} file${files === 1 ? '' : 's'}, ${bytes} bytes`)
  } else if (action.kind === 'directory') {
    await makeDirectory(channel, action.path, signal)
  } else if (action.kind === 'run') {
    const { command, args } = action
    const onLine = (line: string) => report(label, line, 'output')
    const { code, output } = await runCommand(channel, { command, surroundings: before, args, onLine, signal })
    if (code === 0) return
    const said = output.length > 0 ? `: ${lastLines(output.join('\n'), 5)}` : ', and said nothing'
    if (/no space left on device/i.test(output.join('\n')))
      throw new Fault(
        'exhausted',
        `the disk of the template is full at ${recipe.diskMiB} MiB; ask for a larger one${said}`,
      )
    throw new Fault('invalid', `failed with exit code ${code}${said}`)
  }
}

async function makeDirectory(channel: BuildMachine['channel'], path: string, signal: AbortSignal): Promise<void> {
  if (path === '/') return
  const { code, output } = await runCommand(channel, {
    command: ['mkdir', '-p', '--', path],
    surroundings: ownSurroundings,
    signal,
  })
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
  return build
}
