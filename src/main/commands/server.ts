import type { Cli } from '../../cli/cli.ts'
import { readContexts, saveContext } from '../../cli/contexts.ts'
import { defaultPort, type Home } from '../../cli/home.ts'
import type { ServerCommand } from '../../cli/main-commands.ts'
import { authenticate, createAccessToken } from '../../control/actions/tokens.ts'
import { newId } from '../../control/control.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { systemRandom } from '../../kit/system-random.ts'
import { accessRoles } from '../../model/records.ts'
import { openSqliteEngine } from '../../store/sqlite/sqlite-engine.ts'
import { parseAddress } from '../address.ts'
import { keepCompiledCode } from '../compiled-code.ts'
import { openLog } from '../log.ts'
import { type RunningServer, startServer } from '../server.ts'

/** `tutti server`: a control plane, until it is told to end. */
export async function run(
  cli: Cli,
  { listen = defaultListen, plainListen, data, name = 'tutti' }: ServerCommand,
): Promise<number> {
  const directory = data ?? cli.home.serverData
  await using server = await launchServer({ home: cli.home, directory, listen, plainListen, name })
  cli.stdout.write(`control plane ready at ${urlOf(server)}\n`)
  cli.stdout.write(`  fingerprint  ${server.caFingerprint}\n  state        ${directory}\n`)
  cli.stdout.write('machines join with a token: tutti token create --join\n')
  await ended(cli.signal)
  return 0
}

/** Every connection is authenticated, so a control plane for machines may be reached by machines. */
const defaultListen = `0.0.0.0:${defaultPort}`

export interface LaunchOptions {
  /** Whose command line is to find it. */
  home: Home
  directory: string
  listen: string
  /** Without TLS, on loopback. */
  plainListen: string | undefined
  name: string
}

/** Starts the control plane and lets this user's command line find it. */
export async function launchServer(options: LaunchOptions): Promise<RunningServer> {
  const { home, directory, listen, plainListen, name } = options
  const log = openLog()
  const engine = openSqliteEngine({
    directory,
    clock: systemClock,
    onError: (error) => log.error({ err: error }, 'work behind the log failed'),
  })
  const server = await startServer({
    engine,
    clock: systemClock,
    random: systemRandom,
    log,
    listen: parseAddress(listen, defaultPort),
    plainListen: plainListen === undefined ? undefined : parseAddress(plainListen, defaultPort + 1),
    clusterName: name,
  })
  await writeContext(home, server)
  return server
}

/** The context `local` always leads to the control plane of this home. Its token is kept while it is good. */
async function writeContext(home: Home, server: RunningServer): Promise<void> {
  const { control } = server
  const known = (await readContexts(home)).contexts.find((context) => context.name === contextName)
  const isGood = known?.token !== undefined && isKnown(known.token, server)
  const token = isGood
    ? known?.token
    : (
        await createAccessToken(control, {
          by: 'start',
          name: `local-${newId(control).slice(0, 6)}`,
          roles: [...accessRoles],
          expiresInMs: null,
        })
      ).token
  await saveContext(
    home,
    {
      name: contextName,
      url: urlOf(server),
      caFingerprint: server.caFingerprint,
      ca: server.authority.caCertificate,
      ...(token === undefined ? {} : { token }),
    },
    { use: true },
  )
}

const contextName = 'local'

function isKnown(token: string, { control }: RunningServer): boolean {
  try {
    authenticate(control.store.view, token, control.clock.now())
    return true
  } catch {
    return false
  }
}

/** The address by which this machine itself reaches it. */
export function urlOf({ host, port }: Pick<RunningServer, 'host' | 'port'>): string {
  const reachable = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host
  return `https://${reachable.includes(':') ? `[${reachable}]` : reachable}:${port}`
}

/** Until this process is told to end. */
export async function ended(signal: AbortSignal): Promise<void> {
  keepCompiledCode({ signal })
  if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }))
}
