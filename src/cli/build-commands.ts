import type { Given } from './cli.ts'
import { type CommandSpec, context, type OptionSpec, reads } from './command-spec.ts'
import type { MainCommand } from './main-commands.ts'

/** Commands that look into stores of builds. What a store is, main/ knows; here is what they take. */
export type BuildCommands = Record<
  'list' | 'inspect' | 'diff' | 'copy' | 'mount' | 'unmount' | 'verify' | 'export' | 'gc' | 'bench',
  MainCommand<Given>
>

const build = [
  '<build>',
  'a build by its id or the beginning of it, a name that leads to it, or TEMPLATE[:TAG]',
] as const
const store: OptionSpec = {
  flags: '--store <store>',
  help: "a directory, file:/path, s3://bucket/prefix or gs://bucket/prefix; by default this machine's own",
}
const image: OptionSpec = { flags: '--image <image>', help: 'of which image', choices: ['disk', 'memory', 'devices'] }

const specs: (Omit<CommandSpec, 'load'> & { name: `build ${keyof BuildCommands}` })[] = [
  {
    name: 'build list',
    summary: 'list builds',
    options: [
      { flags: '--template <template>', help: 'only those of it' },
      { flags: '--node <node>', help: 'only those that lie there' },
      { flags: '-a, --all', help: 'also those that pauses and forks leave' },
      { ...store, help: 'those that lie in this store, instead of those that the control plane knows' },
      { flags: '--local', help: "those that lie in this machine's own store" },
      ...reads,
    ],
  },
  {
    name: 'build inspect',
    summary: 'say what a build consists of, and what it shares with its parent',
    arguments: [build],
    options: [
      store,
      { flags: '--map', help: 'draw where there is data and where zeros' },
      { flags: '--range <offset:size>', help: 'print these bytes of an image instead, such as 1MiB:256B' },
      { ...image, help: 'which image, for --range and --map (default disk)' },
      ...reads,
    ],
    completes: 'builds',
  },
  {
    name: 'build diff',
    summary: 'say what two builds share and where they differ',
    arguments: [build, ['<other>', 'the build to compare with']],
    options: [
      store,
      { flags: '--other-store <store>', help: 'where the other build lies, when not in the same store' },
      { flags: '--draw', help: 'draw where they differ' },
      ...reads,
    ],
    completes: 'builds',
  },
  {
    name: 'build copy',
    summary: 'copy a build to another store: what is not there yet',
    arguments: [build],
    options: [
      { ...store, flags: '--from <store>' },
      { flags: '--to <store>', help: "where to; by default this machine's own store" },
      { flags: '--reference <name>', help: 'the name that keeps it there (default build/ID)' },
      ...reads,
    ],
    completes: 'builds',
  },
  {
    name: 'build mount',
    summary: "mount a build's root file system, to be read, until Ctrl-C",
    arguments: [build, ['<directory>', 'where']],
    options: [
      store,
      { flags: '-d, --detach', help: 'go on in the background; "tutti build unmount" ends it' },
      context,
    ],
    completes: 'builds',
  },
  {
    name: 'build unmount',
    summary: 'end a mount of a build, also one whose process was killed',
    arguments: [['<directory>', 'where it is mounted']],
    completes: 'files',
  },
  {
    name: 'build verify',
    summary: 'read everything of builds, and say what is corrupt or missing',
    arguments: [['[builds...]', build[1]]],
    options: [store, { flags: '--all', help: 'the whole store, with packs that no build needs' }, ...reads],
    completes: 'builds',
  },
  {
    name: 'build export',
    summary: "write a build's disk as a raw file, or its root file system as a container image",
    arguments: [build],
    options: [
      store,
      { flags: '--raw <file>', help: 'a raw disk, with holes where it is zero' },
      { flags: '--oci <file>', help: 'an image archive for docker, podman and skopeo' },
      { flags: '--tag <name[:tag]>', help: 'what the image is called in the archive (default build:ID)' },
      ...reads,
    ],
    completes: 'builds',
  },
  {
    name: 'build gc',
    summary: 'remove builds that no name leads to, and say what is kept and why',
    options: [
      store,
      { flags: '--dry-run', help: 'only say it' },
      { flags: '--grace <duration>', help: 'how long something must have been of no use (default 24h)' },
      { flags: '--layers <duration>', help: 'how long layers stay that no build of a template uses (default 30d)' },
      { flags: '--repack', help: 'put what is needed of packs that hold much garbage into new ones' },
      {
        flags: '--max-unused <percent>',
        help: 'repack until no more than this of what is kept is garbage (default 5)',
      },
      ...reads,
    ],
  },
  {
    name: 'build bench',
    summary: 'measure how fast a build can be read',
    arguments: [build],
    options: [
      store,
      { ...image, help: 'which image (default disk)' },
      { flags: '--reads <count>', help: 'of each pattern (default 500)' },
      ...reads,
    ],
    completes: 'builds',
  },
]

/** Needs the control plane alone. */
const importCommand: CommandSpec = {
  name: 'build import',
  summary: "make a build known that was copied into a node's store",
  arguments: [['<build>', 'its id']],
  options: [
    { flags: '--node <node>', help: 'where it lies; by default all nodes are asked' },
    { flags: '--template <name[:tag]>', help: 'put it under this name' },
    ...reads,
  ],
  load: () => import('./commands/build-import.ts'),
}

export function buildCommandTable(commands: Partial<BuildCommands> = {}): CommandSpec[] {
  const known = specs.flatMap((spec) => {
    const load = commands[spec.name.slice('build '.length) as keyof BuildCommands]
    return load ? [{ ...spec, load }] : []
  })
  return [...known, importCommand]
}
