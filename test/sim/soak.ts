import { spawn } from 'node:child_process'
import { once } from 'node:events'

/**
 * `npm run soak [MINUTES]`: the simulation with ever new seeds. Ends at the first one that fails and prints it, so that
 * `SEEDS=<seed> node --test test/sim/simulation.test.ts` shows it again.
 */
const minutes = Number(process.argv[2] ?? 10)
const end = Date.now() + minutes * 60_000
let run = 0
while (Date.now() < end) {
  const seeds = Array.from({ length: 50 }, (_, index) => `${Date.now().toString(36)}-${run}-${index}`)
  const child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', '--test', 'test/sim/simulation.test.ts'],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, SEEDS: seeds.join(',') },
    },
  )
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (chunk) => {
    output += chunk
  })
  const [code] = await once(child, 'close')
  run += 1
  if (code !== 0) {
    console.log(output)
    process.exit(1)
  }
  console.log(`${run * seeds.length} seeds, all well`)
}
