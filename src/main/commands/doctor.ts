import type { Cli, Given } from '../../cli/cli.ts'
import { print } from '../../cli/output/print.ts'
import { table } from '../../cli/output/table.ts'
import { silentLog } from '../../kit/log.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { systemRandom } from '../../kit/system-random.ts'
import type { DriverFacts } from '../../model/node.ts'
import { machineDrivers } from '../drivers.ts'
import { findSandboxFacts } from '../sandboxes/offer.ts'

/** `tutti doctor`: which drivers, and whether sandboxes, work on this machine; otherwise why not and what to install. */
export async function run(cli: Cli, { options }: Given): Promise<number> {
  const drivers = machineDrivers({ directory: cli.home.agentData, clock: systemClock, env: cli.env })
  const sandboxes = {
    directory: cli.home.agentData,
    clock: systemClock,
    random: systemRandom,
    env: cli.env,
    log: silentLog,
  }
  const findings: Finding[] = await Promise.all([
    ...drivers.map(async (driver) => ({ driver: driver.name, ...(await driver.facts()) })),
    findSandboxFacts(sandboxes).then((facts) => ({ driver: 'sandboxes', ...facts })),
  ])
  await print(cli, options.output, {
    value: findings,
    names: () => findings.filter(({ healthy }) => healthy).map(({ driver }) => driver),
    table: () => table(cli.stdout, ['DRIVER', 'WORKS', 'VERSION', 'DETAILS'], findings.map(row)) + remedies(findings),
  })
  return findings.some(({ healthy }) => healthy) ? 0 : 1
}

type Finding = DriverFacts & { driver: string }

function row({ driver, healthy, version = '', reason, attributes }: Finding) {
  const details = Object.entries(attributes).map(([name, value]) => `${name} ${value}`)
  return [
    driver,
    { text: healthy ? 'yes' : 'no', tone: healthy ? ('good' as const) : ('bad' as const) },
    version,
    healthy ? details.join(', ') : (reason ?? 'it does not say why'),
  ]
}

function remedies(findings: readonly Finding[]): string {
  const lines = findings
    .filter(({ healthy, remedy }) => !healthy && remedy)
    .map(({ driver, remedy }) => `  ${driver}: ${remedy}\n`)
  return lines.length === 0 ? '' : `\nTo mend it:\n${lines.join('')}`
}
