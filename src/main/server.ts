import { hostname, networkInterfaces } from 'node:os'
import { createApi } from '../api/api.ts'
import { silenceAll } from '../control/actions/node-session.ts'
import { type Authority, caFingerprint, createAuthority } from '../control/authority/authority.ts'
import { issueServerCertificate, serverLifeMs } from '../control/authority/issue.ts'
import type { Control } from '../control/control.ts'
import { sweepBuilds } from '../control/loops/builds.ts'
import { collectGarbage } from '../control/loops/collect.ts'
import { watchExpiry } from '../control/loops/expiry.ts'
import { watchLeases } from '../control/loops/leases.ts'
import { planJobs } from '../control/loops/planning.ts'
import { watchSilence } from '../control/loops/silence.ts'
import { watchTimers } from '../control/loops/timers.ts'
import { createHttpServer } from '../control/port/http-server.ts'
import { openPlainPort } from '../control/port/plain.ts'
import { openPort } from '../control/port/port.ts'
import { openSandboxes } from '../control/sandboxes/sandboxes.ts'
import { Sessions } from '../control/sessions/sessions.ts'
import type { Clock } from '../kit/clock.ts'
import type { Log } from '../kit/log.ts'
import type { Random } from '../kit/random.ts'
import type { Engine } from '../store/engine.ts'
import { openStore } from '../store/log-store.ts'
import { version } from './version.ts'

export interface ServerOptions {
  engine: Engine
  clock: Clock
  random: Random
  log: Log
  listen: { host: string; port: number }
  /** Also serves the API without TLS there; loopback only, and only because somebody asked for it. */
  plainListen?: { host: string; port: number } | undefined
  /** For people: what the certificate authority is called. */
  clusterName: string
}

/** A control plane that serves. Disposing it ends serving; everything it knew is in the store. */
export interface RunningServer extends AsyncDisposable {
  control: Control
  authority: Authority
  caFingerprint: string
  /** Where it listens, the port being the real one. */
  host: string
  port: number
}

/** Composes and starts the control plane: store, loops, sessions, API, and the one port they are reached through. */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const { clock, random, log, listen } = options
  await using undo = new AsyncDisposableStack()
  const store = await openStore({
    engine: options.engine,
    clock,
    onError: (error) => log.error({ err: error }, 'a follower of the store failed'),
  })
  undo.defer(() => store.close())
  const control: Control = { store, clock, random, log }
  const authority = await loadAuthority(control, options.clusterName)
  await silenceAll(control)

  const stopping = new AbortController()
  const sandboxes = openSandboxes({
    control,
    nodes: { open: (...asked) => sessions.open(...asked) },
    signal: stopping.signal,
  })
  await sandboxes.recover()
  const sessions = new Sessions(control, { onSandboxes: (news) => sandboxes.note(news) })
  const loops = [planJobs, watchTimers, watchLeases, collectGarbage].map((run) =>
    run(control, { signal: stopping.signal }),
  )
  loops.push(watchSilence(control, { sessions, signal: stopping.signal }))
  loops.push(...[watchExpiry, sweepBuilds].map((run) => run(control, { sandboxes, signal: stopping.signal })))
  undo.defer(async () => {
    stopping.abort(new Error('the control plane is stopping'))
    await Promise.all(loops)
  })
  undo.defer(() => sessions.close())

  const certify = () => issueServerCertificate({ authority, hosts: hostsOf(listen.host), now: clock.now(), random })
  const server = createHttpServer()
  const api = await createApi({ server, control, authority, sessions, sandboxes, version })
  undo.defer(() => api.close())
  const port = await openPort({
    ...listen,
    ...(await certify()),
    ca: authority.caCertificate,
    http: server,
    onAgent: (link) => sessions.serve(link, { signal: stopping.signal }),
    clock,
    log,
  })
  undo.use(port)
  if (options.plainListen) undo.use(await openPlainPort({ ...options.plainListen, http: server }))
  void renewCertificate(clock, stopping.signal, async () => port.replaceCertificate(await certify()))

  const started = undo.move()
  return {
    control,
    authority,
    caFingerprint: caFingerprint(authority.caCertificate),
    host: port.host,
    port: port.port,
    [Symbol.asyncDispose]: () => started.disposeAsync(),
  }
}

/** The cluster's authority: made on the first start, and the same ever after. */
async function loadAuthority(control: Control, clusterName: string): Promise<Authority> {
  const { store, clock, random } = control
  const known = store.view.get('cluster', 'cluster')
  if (known) return known
  const authority = await createAuthority({ name: clusterName, clock, random })
  await store.write((tx) => tx.put('cluster', { id: 'cluster', name: clusterName, createdAt: tx.now, ...authority }))
  return authority
}

/** Every name and address that this machine may be reached by. */
function hostsOf(listenHost: string): string[] {
  const addresses = Object.values(networkInterfaces()).flatMap((all) =>
    (all ?? []).map((each) => each.address.split('%')[0] ?? ''),
  )
  return [listenHost, hostname(), ...addresses].filter((host) => host !== '' && host !== '0.0.0.0' && host !== '::')
}

async function renewCertificate(clock: Clock, signal: AbortSignal, renew: () => Promise<void>): Promise<void> {
  while (!signal.aborted) {
    await clock.sleep(serverLifeMs / 2, { signal }).catch(() => {})
    if (!signal.aborted) await renew()
  }
}
