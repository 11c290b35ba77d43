import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, globSync } from 'node:fs'
import { mkdtemp, readFile, rm, rmdir } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { chooseContext } from '../../src/cli/contexts.ts'
import { findHome } from '../../src/cli/home.ts'
import { type Client, createClient } from '../../src/client/client.ts'
import type { PublicAllocation } from '../../src/contract/allocation.ts'
import type { PublicNode } from '../../src/contract/node.ts'
import { systemClock } from '../../src/kit/system-clock.ts'

const root = new URL('../../', import.meta.url).pathname
const tutti = join(root, 'tutti')

export interface StartOptions {
  env?: Record<string, string>
  /** A command to run it through, such as `ip netns exec NAME`. */
  through?: string[]
}

/** What a finished command printed and how it ended. */
export interface Outcome {
  code: number
  stdout: string
  stderr: string
}

/**
 * A real cluster for one test: its own directory, a control plane on a random port of loopback, agents as processes.
 * Disposing it ends everything that it started, and what that started, even after a failure.
 */
export class Cluster implements AsyncDisposable {
  readonly directory: string
  readonly home: string
  readonly host: string
  readonly port: number
  readonly #processes = new Set<ChildProcess>()
  /** What each process wrote, for messages of failed tests. */
  readonly output = new Map<string, string>()

  private constructor(directory: string, host: string, port: number) {
    this.directory = directory
    this.host = host
    this.home = join(directory, 'home')
    this.port = port
  }

  /** `host`: the address to listen on, which must be this machine's. */
  static async open({ host = '127.0.0.1' }: { host?: string } = {}): Promise<Cluster> {
    return new Cluster(await mkdtemp(join(tmpdir(), 'tutti-system-')), host, await freePort(host))
  }

  get address(): string {
    return `${this.host}:${this.port}`
  }

  /** Starts the control plane and waits until it answers. */
  async startServer(...args: string[]): Promise<ChildProcess> {
    const server = this.start('server', [
      'server',
      '--listen',
      this.address,
      '--data',
      join(this.directory, 'server'),
      ...args,
    ])
    await this.until('the control plane answers', async () => {
      assert.equal(server.exitCode, null, `the control plane ended: ${this.output.get('server')}`)
      return (await this.tutti('ps')).code === 0
    })
    return server
  }

  async joinToken(): Promise<string> {
    const { stdout, stderr, code } = await this.tutti('token', 'create', '--join', '--uses', '100', '-o', 'json')
    assert.equal(code, 0, stderr)
    return (JSON.parse(stdout) as { secret: string }).secret
  }

  /** Starts an agent; the first start joins with a token, later ones use what is in its directory. */
  async startAgent(name: string, options: StartOptions = {}): Promise<ChildProcess> {
    const data = join(this.directory, name)
    const joined = await readFile(join(data, 'identity.json'), 'utf8').then(
      () => true,
      () => false,
    )
    const join_ = joined ? [] : ['--join', await this.joinToken(), this.address]
    const agent = this.start(name, ['agent', ...join_, '--name', name, '--data', data], options)
    await this.until(`node ${name} is ready`, async () => {
      assert.equal(agent.exitCode, null, `agent ${name} ended: ${this.output.get(name)}`)
      return (await this.nodes()).some((each) => each.name === name && each.phase === 'ready')
    })
    return agent
  }

  /** Starts `tutti ARGS` and leaves it running. */
  start(label: string, args: string[], { env = {}, through = [] }: StartOptions = {}): ChildProcess {
    const [command = tutti, ...rest] = [...through, tutti, ...args]
    const child = spawn(command, rest, {
      env: { ...this.#env(), ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#processes.add(child)
    child.once('exit', () => this.#processes.delete(child))
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (chunk) => this.output.set(label, `${this.output.get(label) ?? ''}${chunk}`.slice(-20_000)))
    }
    return child
  }

  /** Runs `tutti ARGS` to its end. */
  async tutti(...args: string[]): Promise<Outcome> {
    return this.run(args)
  }

  async run(
    args: string[],
    { input = '', cwd, env = {} }: { input?: string; cwd?: string; env?: Record<string, string> } = {},
  ): Promise<Outcome> {
    const child = spawn(tutti, args, {
      env: { ...this.#env(), ...env },
      stdio: ['pipe', 'pipe', 'pipe'],
      ...(cwd === undefined ? {} : { cwd }),
    })
    this.#processes.add(child)
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (chunk) => (stdout += chunk))
    child.stderr.setEncoding('utf8').on('data', (chunk) => (stderr += chunk))
    child.stdin.on('error', () => {})
    child.stdin.end(input)
    const [code] = (await once(child, 'close')) as [number | null]
    this.#processes.delete(child)
    return { code: code ?? 255, stdout, stderr }
  }

  async json<T>(...args: string[]): Promise<T> {
    const { code, stdout, stderr } = await this.tutti(...args, '-o', 'json')
    assert.equal(code, 0, `tutti ${args.join(' ')}: ${stderr}`)
    return JSON.parse(stdout) as T
  }

  /** A client with the rights of whoever started the control plane. */
  async client(): Promise<Client> {
    const { url, caFingerprint, ca, token } = await chooseContext(findHome({ env: { TUTTI_HOME: this.home } }), {})
    return createClient({ url, caFingerprint, ca, token, clock: systemClock })
  }

  async nodes(): Promise<PublicNode[]> {
    return this.json<PublicNode[]>('nodes')
  }

  async allocations(job: string): Promise<PublicAllocation[]> {
    return this.json<PublicAllocation[]>('ps', '-a', job)
  }

  /** Waits for a condition, never for a time; the limit only turns a hang into a message. */
  async until(what: string, holds: () => Promise<boolean>, withinMs = 60_000): Promise<void> {
    const end = Date.now() + withinMs
    let last: unknown
    while (Date.now() < end) {
      try {
        if (await holds()) return
        last = undefined
      } catch (error) {
        last = error
      }
      await sleep(50)
    }
    const output = [...this.output].map(([label, text]) => `--- ${label}\n${text.slice(-3000)}`).join('\n')
    throw new Error(`gave up waiting: ${what}${last ? ` (${last})` : ''}\n${output}`)
  }

  async kill(child: ChildProcess, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill(signal)
    await once(child, 'exit')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#processes].map((child) => this.kill(child)))
    await endWorkloads(this.directory)
    await removeGroups(this.directory)
    await rm(this.directory, { recursive: true, force: true, maxRetries: 5 })
  }

  #env(): NodeJS.ProcessEnv {
    const { TUTTI_CONTEXT: _c, TUTTI_ADDR: _a, TUTTI_TOKEN: _t, ...env } = process.env
    return {
      ...env,
      TUTTI_HOME: this.home,
      NO_COLOR: '1',
    }
  }
}

/** Workloads outlive agents by design; a test's must not outlive the test. They are known by their directory. */
async function endWorkloads(directory: string): Promise<void> {
  const { readdir, readlink } = await import('node:fs/promises')
  for (const pid of await readdir('/proc').catch(() => [])) {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue
    const cwd = await readlink(`/proc/${pid}/cwd`).catch(() => '')
    const environ = await readFile(`/proc/${pid}/environ`, 'utf8').catch(() => '')
    if (!cwd.startsWith(directory) && !environ.includes(directory)) continue
    try {
      process.kill(Number(pid), 'SIGKILL')
    } catch {
      // It ended by itself.
    }
  }
}

/** Control groups of the allocations that lie in this directory: nobody else would remove them. */
async function removeGroups(directory: string): Promise<void> {
  const allocations = globSync(`${directory}/*/allocations/*`).map((path) => basename(path))
  const groups = globSync('/sys/fs/cgroup/{tutti,*/tutti}/*').filter((path) =>
    allocations.some((allocation) => basename(path).startsWith(`${allocation}-`)),
  )
  for (let tries = 0; groups.length > 0 && tries < 50; tries++) {
    const left = await Promise.all(
      groups.splice(0).map((path) =>
        rmdir(path).then(
          () => '',
          () => path,
        ),
      ),
    )
    // What was killed a moment ago may still be leaving.
    groups.push(...left.filter((path) => path !== '' && existsSync(path)))
    if (groups.length > 0) await sleep(20)
  }
}

export async function freePort(host: string): Promise<number> {
  const probe = createServer().listen(0, host)
  await once(probe, 'listening')
  const address = probe.address()
  probe.close()
  return typeof address === 'object' && address ? address.port : 0
}
