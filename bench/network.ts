import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { silentLog as log } from '../src/kit/log.ts'
import { systemClock as clock } from '../src/kit/system-clock.ts'
import { systemRandom as random } from '../src/kit/system-random.ts'
import { chooseNetwork } from '../src/sandboxes/network/choose.ts'
import { openNamespaceNetwork } from '../src/sandboxes/network/namespace/namespace.ts'
import { type Figure, quantile, report, sorted } from './figures.ts'

/**
 * A place on the network for a sandbox: making it, changing what it may reach, and removing it; one after the other, and
 * twenty at once.
 *
 *   node bench/network.ts [--links 100]
 *
 * Needs root. Touches nothing but namespaces and interfaces of its own.
 */
const asked = { asked: 30, better: 'less' } as const
const { values } = parseArgs({ options: { links: { type: 'string', default: '100' } } })
const signal = new AbortController().signal
const { kind, reason } = await chooseNetwork()
if (kind === 'namespace') await measure()
else console.log(`not measured: ${reason}`)

async function measure(): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-bench-network-'))
  try {
    await using network = await openNamespaceNetwork({ clock, random, log, directory })
    const times: Record<string, number[]> = { open: [], deny: [], 'allow a list of 1,000 ranges': [], close: [] }
    const time = async <T>(what: string, act: () => Promise<T>): Promise<T> => {
      const begin = clock.monotonic()
      const made = await act()
      times[what]?.push(clock.monotonic() - begin)
      return made
    }
    const cidrs = Array.from({ length: 1000 }, (_, n) => `203.${n % 250}.${Math.floor(n / 250) * 2}.0/24`)
    const idOf = (n: number) => `bench${String(n).padStart(11, '0')}`
    for (let n = 0; n < Number(values.links); n += 1) {
      const link = await time('open', () => network.open(idOf(n), { signal }))
      await time('deny', () => link.allow({ mode: 'deny' }))
      await time('allow a list of 1,000 ranges', () => link.allow({ mode: 'list', cidrs, domains: ['example.org'] }))
      await time('close', () => link.close())
    }
    const begin = clock.monotonic()
    const links = await Promise.all(Array.from({ length: 20 }, (_, n) => network.open(idOf(n), { signal })))
    const together = clock.monotonic() - begin
    await Promise.all(links.map((link) => link.close()))
    const figures = Object.entries(times).flatMap(([what, list]): Figure[] => [
      { what: `${what}, p50`, reached: quantile(sorted(list), 0.5), unit: 'ms', ...(what === 'open' ? asked : {}) },
      { what: `${what}, p99`, reached: quantile(sorted(list), 0.99), unit: 'ms' },
    ])
    report('network', [...figures, { what: '20 opened at once, to the last', reached: together, unit: 'ms' }])
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}
