import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { makeDriver } from '../fixtures/container-driver.ts'
import { startPodman } from '../fixtures/podman.ts'
import { lacking, startRegistry } from '../fixtures/registry.ts'
import { driverConformance, shellBehaviours } from './driver.ts'
import type { TaskFragment } from './driver-world.ts'

/** The container driver on an engine with Docker's API: Podman's service. The plain runtime's turn is in container.test.ts. */

const skip = lacking(['tini-static', 'podman'])
const image = skip === undefined ? await setUp() : ''
const shell = (script: string): TaskFragment => ({
  ...{ driver: 'container', image, command: ['/bin/sh', '-c', script] },
  // The suite has programs die of signals that they do not handle.
  config: { init: true },
})

await driverConformance('container', makeDriver, {
  ...{ behaviours: shellBehaviours(shell), shell, skip, inThisProc: true, programIsFirst: false },
  missing: { driver: 'container', image, command: 'no-such-program' },
  module: new URL('../fixtures/container-driver.ts', import.meta.url).href,
})

/** One image and one store for all of it, as on a node. */
async function setUp(): Promise<string> {
  const registry = await startRegistry()
  const podman = await startPodman()
  const directory = await mkdtemp(join(tmpdir(), 'tutti-containers-'))
  process.env['TUTTI_TEST_CONTAINERS'] = directory
  process.env['TUTTI_TEST_ENGINE'] = podman.host
  after(async () => {
    await podman[Symbol.asyncDispose]()
    await registry[Symbol.asyncDispose]()
    await rm(directory, { recursive: true, force: true })
  })
  return registry.push('conformance/busybox:1', { files: { '/usr/here': '' } })
}
