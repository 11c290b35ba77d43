import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { globSync } from 'node:fs'

/** `npm run bench [NAME…]`: every benchmark, one after the other, so that none disturbs another. */
const helpers = ['run', 'bench', 'figures', 'fleet']
const wanted = process.argv.slice(2)
let failed = 0
for (const file of globSync('bench/*.ts').sort()) {
  const name = file.replace(/^bench\/|\.ts$/g, '')
  if (helpers.includes(name) || (wanted.length > 0 && !wanted.includes(name))) continue
  console.log(`\n▶ ${name}`)
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', file], { stdio: 'inherit' })
  const [code] = await once(child, 'exit')
  if (code !== 0) failed += 1
}
process.exitCode = failed === 0 ? 0 : 1
