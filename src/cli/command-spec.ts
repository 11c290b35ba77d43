import type { CommandModule } from './cli.ts'

/**
 * Every command: what it is called, what it takes, and where it is. Read by the parser, the help and the completion;
 * a command's own module is loaded when it runs and not before.
 */
export interface CommandSpec {
  /** With its group, such as `node drain`. */
  name: string
  summary: string
  arguments?: readonly (readonly [pattern: string, help: string])[]
  options?: readonly OptionSpec[]
  /** Options after the first argument belong to that argument's command. */
  passThrough?: boolean
  /** What its arguments name, for completion. */
  completes?: 'jobs' | 'targets' | 'nodes' | 'contexts' | 'files' | 'sandboxes' | 'templates' | 'builds'
  load: () => Promise<CommandModule>
}

export interface OptionSpec {
  flags: string
  help: string
  /** May be given several times. */
  many?: true
  choices?: readonly string[]
}

/** How everything that prints is asked for another form. */
export const output: OptionSpec = {
  flags: '-o, --output <format>',
  help: 'how to print',
  choices: ['table', 'json', 'yaml', 'name'],
}
export const context: OptionSpec = { flags: '--context <name>', help: 'which control plane; see "tutti context"' }
export const reads = [output, context]
