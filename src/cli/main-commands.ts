import { Fault } from '../model/fault.ts'
import { type BuildCommands, buildCommandTable } from './build-commands.ts'
import type { Cli, Command, Given } from './cli.ts'
import { type CommandSpec, output } from './command-spec.ts'
import { readPairs, readSecretOption, textOption, textsOption } from './options.ts'

/**
 * The commands that run a control plane or an agent, or look into stores of builds. They are carried out in main/, which hands in how to load them;
 * here is what they take.
 */
export interface MainCommands {
  server: MainCommand<ServerCommand>
  agent: MainCommand<AgentCommand>
  dev: MainCommand<DevCommand>
  demo: MainCommand<DevCommand>
  doctor: MainCommand<Given>
  build: Partial<BuildCommands>
}
/** Loads a module whose `run` carries the command out and resolves with the exit code; nothing means 0. */
export type MainCommand<O> = () => Promise<{ run: (cli: Cli, options: O) => Promise<number | undefined> }>

export interface ServerCommand {
  /** `host:port`, or one of both. */
  listen: string | undefined
  plainListen: string | undefined
  data: string | undefined
  name: string | undefined
}

export interface AgentCommand {
  /** Set when the machine is to join: the token, and the control plane's address. */
  join: { token: string; address: string } | undefined
  data: string | undefined
  name: string | undefined
  labels: Record<string, string>
  /** Named volumes by name: directories of this machine. */
  volumes: Record<string, string>
  /** Directories that jobs may mount parts of. */
  allowHostPaths: string[]
  counters: Record<string, number>
}

export interface DevCommand {
  listen: string | undefined
  plainListen: string | undefined
  /** Where all its state goes, instead of $TUTTI_HOME or the usual places. */
  home: string | undefined
}

export function mainCommandTable(commands: Partial<MainCommands>): CommandSpec[] {
  return [
    entry(commands.server, readServer, {
      name: 'server',
      summary: 'run a control plane',
      options: [listen, plain, { flags: '--data <directory>', help: 'where its state is kept' }, clusterName],
    }),
    entry(commands.agent, readAgent, {
      name: 'agent',
      summary: 'make this machine a node',
      arguments: [['[address]', 'of the control plane, with --join']],
      options: [
        { flags: '--join <token>', help: 'join with this token; @FILE reads it, TUTTI_JOIN_TOKEN holds it too' },
        { flags: '--data <directory>', help: 'where its state is kept' },
        { flags: '--name <name>', help: 'name of the node; by default the host name' },
        { flags: '--label <key=value>', help: 'a label of the node', many: true },
        { flags: '--volume <name=path>', help: 'a directory that jobs may mount by name', many: true },
        { flags: '--allow-host-path <path>', help: 'a directory that jobs may mount parts of', many: true },
        { flags: '--counter <name=number>', help: 'something of which jobs may reserve a number', many: true },
      ],
    }),
    entry(commands.dev, readDev, {
      name: 'dev',
      summary: 'run a control plane and an agent on this machine',
      options: [listen, plain, home],
    }),
    entry(commands.demo, readDev, {
      name: 'demo',
      summary: 'like dev, with a few jobs to look at',
      options: [listen, plain, home],
    }),
    entry(commands.doctor, async (_cli, given) => given, {
      name: 'doctor',
      summary: 'say what this machine can run, and what is missing',
      options: [output],
    }),
    buildCommandTable(commands.build),
  ].flat()
}

const listen = { flags: '--listen <address>', help: 'host:port to listen on (default 127.0.0.1:7447 for dev)' }
const plain = { flags: '--plain-listen <address>', help: 'also serve the API without TLS, on loopback only' }
const clusterName = { flags: '--name <name>', help: 'what the cluster is called' }
const home = { flags: '--home <directory>', help: 'keep everything in this directory, as TUTTI_HOME does' }

function entry<O>(
  load: MainCommand<O> | undefined,
  read: (cli: Cli, given: Given) => Promise<O>,
  spec: Omit<CommandSpec, 'load'>,
): CommandSpec[] {
  if (!load) return []
  const run: Command = async (cli, given) => (await load()).run(cli, await read(cli, given))
  return [{ ...spec, load: async () => ({ run }) }]
}

async function readServer(_cli: Cli, { options }: Given): Promise<ServerCommand> {
  return {
    listen: textOption(options, 'listen'),
    plainListen: textOption(options, 'plainListen'),
    data: textOption(options, 'data'),
    name: textOption(options, 'name'),
  }
}

async function readDev(_cli: Cli, { options }: Given): Promise<DevCommand> {
  return {
    listen: textOption(options, 'listen'),
    plainListen: textOption(options, 'plainListen'),
    home: textOption(options, 'home'),
  }
}

async function readAgent(cli: Cli, { args, options }: Given): Promise<AgentCommand> {
  return {
    join: await readJoin(cli, args[0], textOption(options, 'join')),
    data: textOption(options, 'data'),
    name: textOption(options, 'name'),
    labels: readPairs('--label', textsOption(options, 'label')),
    volumes: readPairs('--volume', textsOption(options, 'volume')),
    allowHostPaths: textsOption(options, 'allowHostPath'),
    counters: Object.fromEntries(
      Object.entries(readPairs('--counter', textsOption(options, 'counter'))).map(([name, count]) => [
        name,
        readCount(name, count),
      ]),
    ),
  }
}

async function readJoin(
  cli: Cli,
  address: string | undefined,
  option: string | undefined,
): Promise<AgentCommand['join']> {
  const token = option === undefined ? cli.env.TUTTI_JOIN_TOKEN : await readSecretOption(option)
  if (address === undefined) {
    if (option === undefined) return undefined
    throw new Fault('invalid', 'to join, give the address of the control plane: tutti agent --join TOKEN host:7447')
  }
  if (token) return { token, address }
  throw new Fault('invalid', 'to join, give a token with --join; "tutti token create --join" makes one')
}

function readCount(name: string, text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text)
  throw new Fault('invalid', `"--counter ${name}=${text}" needs a whole number`)
}
