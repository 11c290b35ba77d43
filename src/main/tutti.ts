#!/usr/bin/env node
import { enableCompileCache } from 'node:module'

enableCompileCache()
const { runCli } = await import('../cli/program.ts')
const { mainCommands } = await import('./main-commands.ts')
process.exitCode = await runCli(process.argv.slice(2), mainCommands)
