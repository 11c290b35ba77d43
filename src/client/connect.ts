import type { Readable } from 'node:stream'
import { setTimeout as pause } from 'node:timers/promises'
import type { PublicBuild, PublicBuildLine } from '../contract/build.ts'
import type { CreateSandbox } from '../contract/sandbox.ts'
import type { PublicTemplate } from '../contract/template.ts'
import { Fault } from '../model/fault.ts'
import { BuildFault } from './build-fault.ts'
import { type Client, createClient, type Input } from './client.ts'
import type { NodeTransportOptions } from './node-transport.ts'
import { readableOf, Sandbox } from './sandbox.ts'
import type { Sleeper } from './watch.ts'

export interface ConnectOptions extends Partial<NodeTransportOptions> {
  /** For tests: how to wait. */
  clock?: Sleeper
}

/**
 * A control plane, for programs. What is not given is read from TUTTI_ADDR, TUTTI_TOKEN and TUTTI_CA_FINGERPRINT.
 *
 *   await using tutti = connect()
 *   await using sandbox = await tutti.sandboxes.create({ template: 'base' })
 *   const { stdout } = await sandbox.exec('uname -a')
 */
export function connect(options: ConnectOptions = {}): Tutti {
  const { env } = process
  const address = options.url ?? env.TUTTI_ADDR
  if (address === undefined)
    throw new Fault('invalid', 'say where the control plane is: `url`, or TUTTI_ADDR in the environment')
  const client = createClient({
    clock: options.clock ?? {
      sleep: async (ms, { signal } = {}) => void (await pause(ms, undefined, { ...(signal ? { signal } : {}) })),
    },
    ...options,
    url: address.includes('://') ? address : `https://${address}`,
    token: options.token ?? env.TUTTI_TOKEN,
    caFingerprint: options.caFingerprint ?? (options.ca === undefined ? env.TUTTI_CA_FINGERPRINT : undefined),
  })
  return tuttiOf(client)
}

export interface Tutti extends AsyncDisposable {
  /** Every endpoint as a function. */
  readonly client: Client
  readonly sandboxes: Sandboxes
  readonly templates: Templates
}

export function tuttiOf(client: Client): Tutti {
  return {
    client,
    sandboxes: new Sandboxes(client),
    templates: new Templates(client),
    [Symbol.asyncDispose]: () => client[Symbol.asyncDispose](),
  }
}

export class Sandboxes {
  readonly #client: Client

  constructor(client: Client) {
    this.#client = client
  }

  /** Resolves when it answers. */
  async create(wanted: CreateSandbox = {}, options: { signal?: AbortSignal } = {}): Promise<Sandbox> {
    const { sandbox } = await this.#client.createSandbox({ body: wanted }, options)
    return new Sandbox(this.#client, sandbox)
  }

  /** One that is there already, by its id, the beginning of it, or its name. */
  async get(reference: string): Promise<Sandbox> {
    const { sandbox } = await this.#client.getSandbox({ sandbox: reference })
    return new Sandbox(this.#client, sandbox)
  }

  /** By default all that are not over. */
  async list(
    filter: Omit<Input<'listSandboxes'>, 'after' | 'limit' | 'metadata'> & { metadata?: Record<string, string> } = {},
  ): Promise<Sandbox[]> {
    const all: Sandbox[] = []
    const { metadata, ...rest } = filter
    const entries = metadata === undefined ? {} : { metadata: metadataQuery(metadata) }
    for (let after: string | undefined; ; ) {
      const { sandboxes, next } = await this.#client.listSandboxes({ ...rest, ...entries, after })
      all.push(...sandboxes.map((each) => new Sandbox(this.#client, each)))
      if (next === null) return all
      after = next
    }
  }
}

export function metadataQuery(metadata: Record<string, string>): string {
  return Object.entries(metadata)
    .map(([key, value]) => `${encodeURIComponent(key)}=${encodeURIComponent(value)}`)
    .join(',')
}

type BuildInput = Input<'buildTemplate'>['body']

export class Templates {
  readonly #client: Client

  constructor(client: Client) {
    this.#client = client
  }

  /**
   * Builds a template and resolves when it can be used; rejects with a BuildFault that says why when it failed. `context` is a tar
   * archive with what the recipe copies.
   */
  async build(
    name: string,
    wanted: Omit<BuildInput, 'context'> & {
      context?: Readable | Uint8Array | undefined
      onBegin?: (build: PublicBuild) => void
      onLog?: (line: PublicBuildLine) => void
      signal?: AbortSignal | undefined
    },
  ): Promise<PublicBuild> {
    const { context, onBegin, onLog, signal, ...body } = wanted
    const { build } = await this.#client.buildTemplate(
      { template: name, body: { ...body, context: context !== undefined } },
      { signal },
    )
    onBegin?.(build)
    const followed = this.#follow(build.id, onLog, signal)
    if (context !== undefined) {
      const sent = this.#client.sendBuildContext({ build: build.id }, readableOf(context), { signal })
      // Why the build failed says more than that it did not read on.
      await sent.catch(async (error: unknown) => {
        if ((await this.#client.getBuild({ build: build.id })).build.status === 'building') throw error
      })
    }
    await followed
    const { build: done } = await this.#client.getBuild({ build: build.id }, { signal })
    if (done.status === 'ready') return done
    throw new BuildFault(done)
  }

  async list(): Promise<PublicTemplate[]> {
    const all: PublicTemplate[] = []
    for (let after: string | undefined; ; ) {
      const { templates, next } = await this.#client.listTemplates({ after })
      all.push(...templates)
      if (next === null) return all
      after = next
    }
  }

  async get(name: string): Promise<{ template: PublicTemplate; builds: PublicBuild[] }> {
    const { template, builds } = await this.#client.getTemplate({ template: name })
    return { template, builds }
  }

  async tag(name: string, tag: string, build: string): Promise<PublicTemplate> {
    return (await this.#client.tagTemplate({ template: name, tag, body: { build } })).template
  }

  async delete(name: string): Promise<void> {
    await this.#client.deleteTemplate({ template: name })
  }

  async #follow(
    build: string,
    onLog: ((line: PublicBuildLine) => void) | undefined,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    for await (const line of this.#client.buildLogs({ build, follow: true }, { signal })) onLog?.(line)
    signal?.throwIfAborted()
  }
}
