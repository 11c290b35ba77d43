import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Fault } from '../model/fault.ts'
import { clear, keptDevices, type Live, vmDirectory } from './live.ts'
import type { Parts } from './parts.ts'
import type { SandboxRecord } from './record.ts'

/** Ends what an earlier agent left that no sandbox stands on: what was made ahead, or was being ended, or saved. */
export async function clearStrays(parts: Parts, records: readonly SandboxRecord[], signal: AbortSignal): Promise<void> {
  const { blocks, network } = parts
  const places = new Set(records.filter(({ phase }) => phase !== 'paused').map(({ place }) => place))
  for (const place of await readdir(join(parts.directory, 'vms'))) if (!places.has(place)) await clear(parts, place)
  await rm(keptDevices(parts), { recursive: true, force: true })
  await network.reclaim(places)
  const { disks, memories, captures } = await blocks.ask('list', {}, { signal })
  const holders = new Set([...disks.map(({ name }) => name), ...memories.flatMap(({ holders }) => holders)])
  for (const holder of holders) if (!places.has(holder)) await clear(parts, holder)
  for (const capture of captures) await blocks.ask('dropCapture', { capture }, { signal })
}

/** The VM that an earlier agent started, with all that it stands on. */
export async function reach(parts: Parts, record: SandboxRecord, signal: AbortSignal): Promise<Live> {
  const { blocks, vmm, network } = parts
  const { place, mapped } = record
  const vm = await vmm.adopt(vmDirectory(parts, place))
  if (!vm) throw new Fault('unavailable', 'its VM ended while no agent was there')
  const { manifest } = await blocks.ask('manifest', { build: record.paused ?? record.build }, { signal })
  await blocks.ask('openDisk', { name: place, from: { build: manifest.id } }, { signal })
  // Where the block server is another one, the VM keeps what it has mapped, and what is made here takes nothing.
  const memory =
    mapped === null
      ? await blocks.ask('newMemory', { name: place, size: manifest.machine.memoryMiB * 2 ** 20 }, { signal })
      : await blocks.ask('openMemory', { build: mapped, holder: place, lazy: true }, { signal })
  const link = await network.adopt(place)
  if (!link) throw new Fault('unavailable', 'its place on the network is gone')
  await link.allow(record.egress)
  // A snapshot may have been under way: the machine stands still and its workload is frozen.
  await vm.resume()
  const channel = await parts.connect(vm, { token: record.token, signal })
  await channel.thaw({ signal })
  return { place, manifest, mapped, memory: { path: memory.path, size: memory.size }, vm, link, channel }
}
