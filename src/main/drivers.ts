import { join } from 'node:path'
import { ContainerDriver } from '../drivers/container/container.ts'
import type { Driver } from '../drivers/driver.ts'
import { FakeDriver } from '../drivers/fake/fake-driver.ts'
import { FakeMachine } from '../drivers/fake/fake-machine.ts'
import { ProcessDriver } from '../drivers/process/process-driver.ts'
import type { Clock } from '../kit/clock.ts'

export interface DriverSettings {
  /** Where drivers keep images and state. */
  directory: string
  clock: Clock
  env: Readonly<Record<string, string | undefined>>
}

/** The drivers of a real machine. `TUTTI_FAKE_DRIVER=1` adds the fake one, to measure and to try things. */
export function machineDrivers({ directory, clock, env }: DriverSettings): Driver[] {
  const drivers: Driver[] = [
    new ProcessDriver({ directory: join(directory, 'processes'), clock }),
    new ContainerDriver({
      directory: join(directory, 'containers'),
      clock,
      runtime: runtimeNamed(env.TUTTI_CONTAINER_RUNTIME),
      dockerHost: env.DOCKER_HOST,
      authFile: env.REGISTRY_AUTH_FILE,
    }),
  ]
  if (env.TUTTI_FAKE_DRIVER === '1') drivers.push(new FakeDriver({ machine: new FakeMachine({ clock }), clock }))
  return drivers
}

const runtimes = ['runc', 'crun', 'docker', 'podman'] as const

function runtimeNamed(name: string | undefined): (typeof runtimes)[number] | undefined {
  return runtimes.find((runtime) => runtime === name)
}
