#!/usr/bin/env node
import { enableCompileCache } from 'node:module'

enableCompileCache()
const { runCli } = await import('../cli/program.ts')
process.exitCode = await runCli(process.argv.slice(2), {
  server: () => import('./commands/server.ts'),
  agent: () => import('./commands/agent.ts'),
  dev: () => import('./commands/dev.ts'),
  demo: () => import('./commands/demo.ts'),
  doctor: () => import('./commands/doctor.ts'),
})
