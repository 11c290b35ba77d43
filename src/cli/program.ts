import type { Command as Parser } from 'commander'
import { closest } from '../kit/nearest.ts'
import type { Cli } from './cli.ts'
import type { CommandSpec } from './command-spec.ts'
import { commandTable, groups } from './command-table.ts'
import { exitCodes } from './exit-codes.ts'
import { type MainCommands, mainCommandTable } from './main-commands.ts'
import { reportFailure } from './report-failure.ts'
import { openCli } from './system-cli.ts'

/**
 * Runs one command line and resolves with the exit code (see `exit-codes.ts`). Nothing that only one command needs is
 * loaded for another. `commands` are those that run servers: `main/` knows how.
 */
export async function runCli(
  argv: readonly string[],
  commands: Partial<MainCommands>,
  cli = openCli(),
): Promise<number> {
  const table = [...mainCommandTable(commands), ...commandTable]
  try {
    if (argv[0] === '__complete') {
      const { complete } = await import('./complete.ts')
      return await complete(cli, table, argv.slice(1))
    }
    return await parseAndRun(argv, table, cli)
  } catch (error) {
    return await reportFailure(cli, error)
  }
}

async function parseAndRun(argv: readonly string[], table: readonly CommandSpec[], cli: Cli): Promise<number> {
  const { Command, CommanderError, Option } = await import('commander')
  const dashes = argv.indexOf('--')
  const said = dashes < 0 ? argv : argv.slice(0, dashes)
  // The parser's own help knows one word, and half of our commands have two.
  const words = said[0] === 'help' && said.length > 1 ? [...said.slice(1), '--help'] : said
  const rest = dashes < 0 ? [] : argv.slice(dashes + 1)
  let exitCode: number = exitCodes.ok

  const program = new Command('tutti')
    .description('Runs programs, containers and jobs on machines you own.')
    .version(await ownVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'show help')
    .helpCommand('help [command]', 'show help for a command')
    .enablePositionalOptions()
    .showSuggestionAfterError(true)
    .configureOutput({
      writeOut: (text) => void cli.stdout.write(text),
      writeErr: (text) => void cli.stderr.write(sentenceOf(text)),
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    .exitOverride()
  program.addHelpText('after', '\nStart here: "tutti dev" runs everything on this machine; "tutti demo" shows it off.')

  const parents = new Map<string, Parser>()
  for (const [name, summary] of Object.entries(groups)) {
    parents.set(name, program.command(name).description(summary).copyInheritedSettings(program))
  }
  for (const spec of table) {
    const [first = '', second] = spec.name.split(' ')
    const parent = second === undefined ? program : (parents.get(first) ?? program)
    const command = parent
      .command(second ?? first)
      .description(spec.summary)
      .copyInheritedSettings(program)
    for (const [pattern, help] of spec.arguments ?? []) command.argument(pattern, help)
    for (const { flags, help, many, choices } of spec.options ?? []) {
      const option = new Option(flags, help)
      if (many) option.argParser((value: string, all: string[] | undefined) => [...(all ?? []), value])
      if (choices) option.choices(choices)
      command.addOption(option)
    }
    if (spec.passThrough) command.passThroughOptions()
    const usage = `tutti ${spec.name} ${command.usage()}`.replace(
      '[options] ',
      spec.options?.length ? '[options] ' : '',
    )
    command.showHelpAfterError(`  ${usage}\n  "tutti help ${spec.name}" says what these are`)
    command.action(async (...given: unknown[]) => {
      const { run } = await spec.load()
      const args = given
        .slice(0, -2)
        .flat()
        .filter((word) => word !== undefined) as string[]
      exitCode = (await run(cli, { args, options: given.at(-2) as Record<string, unknown>, rest })) ?? exitCodes.ok
    })
  }
  program
    .command('version')
    .description('print the version')
    .action(async () => {
      cli.stdout.write(`tutti ${await ownVersion()}\n`)
    })
  if (words.length === 0) {
    cli.stdout.write(program.helpInformation())
    return rest.length > 0 ? exitCodes.usage : exitCodes.ok
  }
  const unknown = unknownCommand(words, table)
  if (unknown) {
    cli.stderr.write(`tutti: ${unknown}\n`)
    return exitCodes.usage
  }
  try {
    await program.parseAsync(words, { from: 'user' })
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage
  }
  return exitCode
}

/** A sentence when the first words are no command, with the one that was probably meant. */
function unknownCommand(words: readonly string[], table: readonly CommandSpec[]): string | undefined {
  const [first = '', second] = words
  if (first.startsWith('-')) return undefined
  const tops = [...new Set([...table.map(({ name }) => name.split(' ')[0] ?? ''), 'help', 'version'])]
  if (!tops.includes(first)) return `there is no command "${first}"${meant(first, tops, '')}`
  if (groups[first] === undefined || second === undefined || second.startsWith('-') || second === 'help')
    return undefined
  const inGroup = table.map(({ name }) => name.split(' ')).filter(([top, sub]) => top === first && sub !== undefined)
  const subs = inGroup.map(([, sub]) => sub ?? '')
  return subs.includes(second)
    ? undefined
    : `there is no command "${first} ${second}"${meant(second, subs, ` ${first}`)}`
}

function meant(word: string, known: readonly string[], group: string): string {
  const near = habits[word]?.find((habit) => known.includes(habit)) ?? closest(word, known)
  return near === undefined ? `; "tutti help${group}" lists them` : `; did you mean "${near}"?`
}

/** What other programs call it. */
const habits: Readonly<Record<string, readonly string[]>> = {
  ls: ['list', 'ps'],
  rm: ['kill', 'delete', 'remove', 'stop'],
  delete: ['kill', 'remove', 'stop'],
  remove: ['kill', 'delete', 'stop'],
  destroy: ['kill', 'delete', 'remove', 'stop'],
  stop: ['kill'],
  run: ['create'],
  new: ['create'],
  start: ['create', 'run'],
  up: ['run'],
  apply: ['run'],
  show: ['info', 'inspect', 'status'],
  get: ['info', 'list', 'status'],
  inspect: ['info', 'status'],
  describe: ['info', 'status'],
  stats: ['metrics'],
  top: ['metrics'],
  copy: ['cp'],
  ssh: ['exec'],
  shell: ['exec'],
  connect: ['exec', 'attach'],
  suspend: ['pause'],
  unpause: ['resume'],
  clone: ['fork'],
  commit: ['snapshot'],
  umount: ['unmount'],
  prune: ['gc'],
}

/** Its own errors begin like ours. */
function sentenceOf(text: string): string {
  return text.replace(/^error: /, 'tutti: ')
}

async function ownVersion(): Promise<string> {
  const { readFile } = await import('node:fs/promises')
  for (const up of ['../../package.json', '../../../package.json']) {
    const text = await readFile(new URL(up, import.meta.url), 'utf8').catch(() => undefined)
    const found = text === undefined ? undefined : (JSON.parse(text) as { name?: string; version?: string })
    if (found?.name === 'tutti' && found.version) return found.version
  }
  return 'unknown'
}
