import { rm } from 'node:fs/promises'
import type { Defaults } from '../blocks/manifest.ts'
import { allDone } from '../kit/all-done.ts'
import { Fault } from '../model/fault.ts'
import type { BuildId } from '../model/ids.ts'
import type { Live } from './live.ts'
import { vmDirectory } from './live.ts'
import type { Parts } from './parts.ts'
import type { Saved } from './sandboxes.ts'

export interface SaveOptions {
  build: BuildId
  reason: 'pause' | 'snapshot'
  defaults: Defaults
  /** The name that keeps it. */
  reference: string
  /** Goes on as soon as its state is copied; otherwise it stands still until it is killed. */
  goOn: boolean
  signal: AbortSignal
}

/**
 * Makes a build of a running VM: its workload is frozen and the channel brought to rest, so that after any resume nothing
 * runs before the guest has been told who it is; then disk, devices and memory are cut at one instant. The build is safe
 * when this resolves. When it fails the VM goes on as if nothing had happened, if it still can.
 */
export async function save(parts: Parts, live: Live, options: SaveOptions): Promise<Saved> {
  const { blocks, clock } = parts
  const { build, signal, goOn } = options
  const devices = `${vmDirectory(parts, live.place)}/${build}.devices`
  const begun = clock.monotonic()
  let stoppedMs = 0
  try {
    const { can } = await parts.vmm.facts()
    const token = await rest(live, signal)
    await live.vm.stop()
    const [{ epoch }] = await allDone([
      blocks.ask('cutDisk', { name: live.place }, { signal }),
      live.vm.saveDevices(devices),
      blocks.ask(
        'captureMemory',
        {
          ...{ capture: build, pid: live.vm.pid, path: live.memory.path, size: live.memory.size },
          ...{ build: live.mapped, over: live.mapped === live.manifest.id ? null : live.manifest.id },
          isInDevices: can.savesMemory && live.mapped !== null,
        },
        { signal },
      ),
    ])
    if (goOn) await wake(parts, live, token, signal)
    stoppedMs = clock.monotonic() - begun
    const { compat } = await parts.vmm.facts()
    const { addedBytes } = await blocks.ask(
      'store',
      {
        build,
        reason: options.reason,
        parent: live.mapped ?? live.manifest.id,
        createdAt: clock.now(),
        machine: live.manifest.machine,
        defaults: options.defaults,
        disk: { name: live.place, epoch },
        snapshot: {
          capture: build,
          devices,
          compat,
          guestAgent: live.channel.agentVersion,
          channelToken: token,
          prefetch: live.manifest.snapshot?.prefetch ?? [],
          prefetchDisk: live.manifest.snapshot?.prefetchDisk ?? [],
        },
        reference: options.reference,
      },
      { signal },
    )
    return { build, addedBytes, stoppedMs, savedMs: clock.monotonic() - begun }
  } catch (error) {
    await blocks.ask('dropCapture', { capture: build }, { signal: new AbortController().signal }).catch(() => {})
    if (stoppedMs === 0 || !goOn) await goOnAnyway(parts, live)
    throw error
  } finally {
    await rm(devices, { force: true })
  }
}

/** Everything but the guest agent stands still, and nothing is under way any more. Returns what the next connection opens with. */
async function rest(live: Live, signal: AbortSignal): Promise<string> {
  await live.channel.freeze({ sync: false, signal })
  await live.channel.quiesce({ signal })
  return live.channel.nextToken
}

async function wake(parts: Parts, live: Live, token: string, signal: AbortSignal): Promise<void> {
  await live.vm.resume()
  await live.channel[Symbol.asyncDispose]()
  live.channel = await parts.connect(live.vm, { token, signal })
  await live.channel.thaw({ signal })
}

/** After a failure in between, whatever it was: as far as can be told the VM is whole, so it is to run. */
async function goOnAnyway(parts: Parts, live: Live): Promise<void> {
  const { signal } = new AbortController()
  try {
    await wake(parts, live, live.channel.nextToken, signal)
  } catch (cause) {
    parts.log.error({ place: live.place, err: cause }, 'a VM could not be woken after its snapshot failed')
    throw new Fault('unavailable', 'the snapshot failed, and the VM could not be woken afterwards', { cause })
  }
}
