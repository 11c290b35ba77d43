import { homedir, platform } from 'node:os'
import { join } from 'node:path'

/** Where Tutti keeps its files on this machine. */
export interface Home {
  /** Contexts of the command line; a secret is among them. */
  contextsFile: string
  /** State of a control plane. */
  serverData: string
  /** State of an agent, with the tasks' directories. */
  agentData: string
  /** What can be made again at any time. */
  cache: string
}

/** Where a control plane listens unless told otherwise. */
export const defaultPort = 7447

/**
 * `$TUTTI_HOME` holds everything when it is set, so that a whole cluster can live in one directory. Otherwise the places
 * that the platform has for such files: XDG directories on Linux, the Library on macOS, /var/lib for root.
 */
export function findHome(options: HomeOptions = {}): Home {
  const { env = process.env, os = platform(), home = homedir(), root = process.getuid?.() === 0 } = options
  if (env.TUTTI_HOME) return inDirectory(env.TUTTI_HOME)
  if (os === 'darwin') {
    const support = join(home, 'Library', 'Application Support', 'tutti')
    return { ...inDirectory(support), cache: join(home, 'Library', 'Caches', 'tutti') }
  }
  const config = env.XDG_CONFIG_HOME || join(home, '.config')
  const state = root ? '/var/lib' : env.XDG_STATE_HOME || join(home, '.local', 'state')
  return {
    contextsFile: join(config, 'tutti', 'contexts.json'),
    serverData: join(state, 'tutti', 'server'),
    agentData: join(state, 'tutti', 'agent'),
    cache: join(env.XDG_CACHE_HOME || join(home, '.cache'), 'tutti'),
  }
}

export interface HomeOptions {
  env?: Readonly<Record<string, string | undefined>>
  os?: string
  home?: string
  root?: boolean
}

function inDirectory(directory: string): Home {
  return {
    contextsFile: join(directory, 'contexts.json'),
    serverData: join(directory, 'server'),
    agentData: join(directory, 'agent'),
    cache: join(directory, 'cache'),
  }
}
