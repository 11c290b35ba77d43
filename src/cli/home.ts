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
 * One directory holds everything: `$TUTTI_HOME`, otherwise where the platform has state: XDG's place on Linux, /var/lib
 * for root, the Library on macOS. Contexts lie there too, so that whoever has the state finds the control plane, whatever
 * HOME is at the moment. Only what can be made again is elsewhere.
 */
export function findHome(options: HomeOptions = {}): Home {
  const { env = process.env, os = platform(), home = homedir(), root = process.getuid?.() === 0 } = options
  if (env.TUTTI_HOME) return inDirectory(env.TUTTI_HOME)
  if (os === 'darwin') {
    const support = join(home, 'Library', 'Application Support', 'tutti')
    return { ...inDirectory(support), cache: join(home, 'Library', 'Caches', 'tutti') }
  }
  const state = root ? '/var/lib' : env.XDG_STATE_HOME || join(home, '.local', 'state')
  return { ...inDirectory(join(state, 'tutti')), cache: join(env.XDG_CACHE_HOME || join(home, '.cache'), 'tutti') }
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
