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
  completes?: 'jobs' | 'targets' | 'nodes' | 'contexts' | 'files'
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
const context: OptionSpec = { flags: '--context <name>', help: 'which control plane; see "tutti context"' }
const reads = [output, context]
const job = ['<job>', 'name of a job'] as const
const target = ['<target>', 'a job, or an allocation by its id or the beginning of it'] as const
const node = ['<node>', 'a node by its name, its id or the beginning of it'] as const
const wait: OptionSpec = { flags: '--wait <duration>', help: 'how long to wait, such as 90s (default 5m)' }

export const groups: Readonly<Record<string, string>> = {
  node: 'look after nodes',
  token: 'let people, programs and machines in',
  context: 'choose between control planes',
}

export const commandTable: readonly CommandSpec[] = [
  {
    name: 'run',
    summary: 'make jobs run: those of files, or one command',
    arguments: [['[files...]', 'job files (YAML, JSON, TypeScript); "-" for standard input']],
    options: [
      { flags: '--image <image>', help: 'run "-- command…" in this container image' },
      { flags: '--driver <driver>', help: 'driver of "-- command…"', choices: ['process', 'container'] },
      { flags: '-d, --detach', help: 'do not wait; print what was started' },
      { flags: '--name <name>', help: 'name of the job for "-- command…"' },
      { flags: '-e, --env <key=value>', help: 'environment of "-- command…"', many: true },
      {
        flags: '-p, --port <name[=number]>',
        help: 'a port for "-- command…"; without a number a free one',
        many: true,
      },
      { flags: '--cpu <speed>', help: 'CPU reserved, such as 500MHz' },
      { flags: '--memory <size>', help: 'memory reserved, such as 256MiB' },
      { flags: '--node <constraint>', help: 'a node\'s name, or a constraint such as "os == linux"', many: true },
      { flags: '--service', help: 'keep "-- command…" running instead of running it once' },
      { flags: '--rm', help: 'remove the job of "-- command…" once it has ended' },
      wait,
      context,
    ],
    completes: 'files',
    load: () => import('./commands/run.ts'),
  },
  {
    name: 'plan',
    summary: 'say what running job files would change',
    arguments: [['<files...>', 'job files; "-" for standard input']],
    options: reads,
    completes: 'files',
    load: () => import('./commands/plan.ts'),
  },
  {
    name: 'ps',
    summary: 'list allocations that live',
    arguments: [['[job]', 'only those of this job']],
    options: [
      { flags: '-a, --all', help: 'also those that have ended' },
      { flags: '--node <node>', help: 'only those on this node' },
      ...reads,
    ],
    completes: 'jobs',
    load: () => import('./commands/ps.ts'),
  },
  { name: 'jobs', summary: 'list jobs', options: reads, load: () => import('./commands/jobs.ts') },
  {
    name: 'status',
    summary: 'show a job, an allocation, or the control plane',
    arguments: [['[target]', target[1]]],
    options: reads,
    completes: 'targets',
    load: () => import('./commands/status.ts'),
  },
  {
    name: 'logs',
    summary: 'print the output of tasks',
    arguments: [target, ['[task]', 'name of the task; by default the main one']],
    options: [
      { flags: '-f, --follow', help: 'go on as more is written' },
      { flags: '--tail <lines>', help: 'begin this many lines before the end' },
      { flags: '--stderr', help: 'only standard error' },
      { flags: '--stdout', help: 'only standard output' },
      context,
    ],
    completes: 'targets',
    load: () => import('./commands/logs.ts'),
  },
  {
    name: 'exec',
    summary: 'run a command inside a task',
    arguments: [target, ['[command...]', 'the command; a shell when there is a terminal']],
    options: [
      { flags: '-i, --interactive', help: 'pass standard input on' },
      { flags: '-t, --tty', help: 'give the command a terminal' },
      { flags: '--task <task>', help: 'which task; by default the main one' },
      { flags: '-e, --env <key=value>', help: 'set in its environment', many: true },
      { flags: '-w, --cwd <path>', help: 'its working directory' },
      { flags: '-u, --user <user>', help: 'whom to run it as' },
      context,
    ],
    passThrough: true,
    completes: 'targets',
    load: () => import('./commands/exec.ts'),
  },
  {
    name: 'stop',
    summary: 'stop a job, or one allocation of it',
    arguments: [['<targets...>', target[1]]],
    options: [
      { flags: '--purge', help: 'also remove the job and its history' },
      { flags: '-d, --detach', help: 'do not wait until it has ended' },
      wait,
      context,
    ],
    completes: 'targets',
    load: () => import('./commands/stop.ts'),
  },
  {
    name: 'restart',
    summary: 'restart a job, or one allocation of it',
    arguments: [target],
    options: [context],
    completes: 'targets',
    load: () => import('./commands/restart.ts'),
  },
  {
    name: 'signal',
    summary: 'send a signal to the tasks of an allocation',
    arguments: [
      ['<signal>', 'such as SIGHUP'],
      ['<allocation>', 'an allocation by its id or the beginning of it'],
      ['[task]', 'only this task'],
    ],
    options: [context],
    load: () => import('./commands/signal.ts'),
  },
  {
    name: 'history',
    summary: 'list the versions of a job',
    arguments: [job],
    options: reads,
    completes: 'jobs',
    load: () => import('./commands/history.ts'),
  },
  {
    name: 'revert',
    summary: 'make an earlier version of a job run again',
    arguments: [job, ['[version]', 'by default the one before the current']],
    options: [{ flags: '-d, --detach', help: 'do not wait until it runs' }, wait, context],
    completes: 'jobs',
    load: () => import('./commands/revert.ts'),
  },
  {
    name: 'events',
    summary: 'list what happened',
    arguments: [['[job]', 'only to this job']],
    options: [
      { flags: '-f, --follow', help: 'go on as more happens' },
      { flags: '--node <node>', help: 'only on this node' },
      { flags: '-n, --limit <count>', help: 'how many (default 50)' },
      ...reads,
    ],
    completes: 'jobs',
    load: () => import('./commands/events.ts'),
  },
  { name: 'nodes', summary: 'list nodes', options: reads, load: () => import('./commands/nodes.ts') },
  {
    name: 'node status',
    summary: 'show a node',
    arguments: [node],
    options: reads,
    completes: 'nodes',
    load: () => import('./commands/node-status.ts'),
  },
  {
    name: 'node drain',
    summary: 'move everything off a node',
    arguments: [node],
    options: [
      { flags: '--deadline <duration>', help: 'stop at once what has not moved by then' },
      { flags: '--wait', help: 'until nothing runs there any more' },
      { flags: '--cancel', help: 'end the drain; the node stays closed to new work' },
      context,
    ],
    completes: 'nodes',
    load: () => import('./commands/node-drain.ts'),
  },
  {
    name: 'node enable',
    summary: 'open a node to new work',
    arguments: [node],
    options: [context],
    completes: 'nodes',
    load: () => import('./commands/node-enable.ts'),
  },
  {
    name: 'node disable',
    summary: 'close a node to new work; what runs there goes on',
    arguments: [node],
    options: [context],
    completes: 'nodes',
    load: () => import('./commands/node-disable.ts'),
  },
  {
    name: 'node label',
    summary: 'set labels (key=value) and remove them (key-)',
    arguments: [node, ['<labels...>', 'key=value to set, key- to remove']],
    options: [context],
    completes: 'nodes',
    load: () => import('./commands/node-label.ts'),
  },
  {
    name: 'node remove',
    summary: 'forget a node that will not come back',
    arguments: [node],
    options: [context],
    completes: 'nodes',
    load: () => import('./commands/node-remove.ts'),
  },
  {
    name: 'token create',
    summary: 'create a service account, or a join token for machines',
    arguments: [['[name]', 'by default one is made up for a join token']],
    options: [
      { flags: '--role <role>', help: 'what it may do; by default compute:read', many: true },
      { flags: '--expires <duration>', help: 'a join token by default after 1h, an account never' },
      { flags: '--join', help: 'a token with which machines join' },
      { flags: '--uses <count>', help: 'how many machines may join with it, or "any" (default 1)' },
      { flags: '--label <key=value>', help: 'given to nodes that join with it', many: true },
      ...reads,
    ],
    load: () => import('./commands/token-create.ts'),
  },
  {
    name: 'token list',
    summary: 'list service accounts and join tokens',
    options: reads,
    load: () => import('./commands/token-list.ts'),
  },
  {
    name: 'token revoke',
    summary: 'make a token worthless',
    arguments: [['<token>', 'its name or id']],
    options: [context],
    load: () => import('./commands/token-revoke.ts'),
  },
  {
    name: 'context list',
    summary: 'list control planes',
    options: [output],
    load: () => import('./commands/context-list.ts'),
  },
  {
    name: 'context use',
    summary: 'talk to this control plane from now on',
    arguments: [['<name>', 'name of a context']],
    completes: 'contexts',
    load: () => import('./commands/context-use.ts'),
  },
  {
    name: 'context add',
    summary: 'make a control plane known',
    arguments: [
      ['<name>', 'what to call it'],
      ['<address>', 'such as control.example:7447'],
    ],
    options: [
      {
        flags: '--ca-fingerprint <hex>',
        help: 'fingerprint of its authority, as "tutti context show" prints it there',
      },
      { flags: '--token-file <file>', help: 'file with the token; "-" for standard input' },
      { flags: '--use', help: 'talk to it from now on' },
    ],
    load: () => import('./commands/context-add.ts'),
  },
  {
    name: 'context remove',
    summary: 'forget a control plane',
    arguments: [['<name>', 'name of a context']],
    completes: 'contexts',
    load: () => import('./commands/context-remove.ts'),
  },
  {
    name: 'context show',
    summary: 'show a context, without its token',
    arguments: [['[name]', 'by default the current one']],
    options: [output],
    completes: 'contexts',
    load: () => import('./commands/context-show.ts'),
  },
  {
    name: 'completion',
    summary: 'print a script that completes commands in your shell',
    arguments: [['<shell>', 'bash, zsh or fish']],
    load: () => import('./commands/completion.ts'),
  },
]
