import { Agent, type IncomingMessage, request } from 'node:http'
import type { Duplex } from 'node:stream'
import { z } from 'zod'
import { Fault } from '../../../model/fault.ts'

/**
 * The part of Docker's API that we need (https://docs.docker.com/reference/api/engine/), as Docker and Podman both
 * speak it: JSON calls, answers that stream, and connections that are taken over for a terminal.
 */
export class EngineClient {
  readonly #target: Target
  readonly #agent = new Agent({ keepAlive: true })
  #prefix = ''

  private constructor(target: Target) {
    this.#target = target
  }

  /** Finds out which version both ends speak. `host` as in DOCKER_HOST. */
  static async connect(host: string): Promise<{ client: EngineClient; version: EngineVersion }> {
    const client = new EngineClient(parseHost(host))
    const version = EngineVersion.parse(await client.call('GET', '/version'))
    const [theirs, ours] = [version.ApiVersion, newestKnown].map(number)
    client.#prefix = `/v${(theirs ?? 0) < (ours ?? 0) ? version.ApiVersion : newestKnown}`
    return { client, version }
  }

  /** The parsed answer. An answer that is not a success is thrown as EngineError. */
  async call(method: string, path: string, options: CallOptions = {}): Promise<unknown> {
    const text = await readAll(await this.open(method, path, options))
    return text === '' ? undefined : JSON.parse(text)
  }

  /** The answer as it comes; aborting `signal` ends it. */
  async open(method: string, path: string, { body, headers, signal }: CallOptions = {}): Promise<IncomingMessage> {
    const sent = this.#send(method, path, headers, body, { agent: this.#agent, signal })
    const answer = await new Promise<IncomingMessage>((resolve, reject) => {
      sent.on('response', resolve)
      sent.on('error', (error) => reject(signal?.aborted ? signal.reason : this.#unreachable(error)))
    })
    const status = answer.statusCode ?? 0
    // Who asks for a state that is already reached is told 304.
    if (status < 400) return answer
    throw new EngineError(status, messageIn(await readAll(answer)))
  }

  /** The raw connection behind a call, once the engine has agreed to hand it over. */
  async hijack(path: string, body: unknown, signal: AbortSignal): Promise<{ socket: Duplex; head: Buffer }> {
    const upgrade = { connection: 'Upgrade', upgrade: 'tcp' }
    const sent = this.#send('POST', path, upgrade, body, { agent: undefined, signal: undefined })
    return new Promise((resolve, reject) => {
      const abort = () => {
        sent.destroy()
        reject(signal.reason)
      }
      signal.addEventListener('abort', abort, { once: true })
      sent.on('upgrade', (_answer, socket, head) => {
        signal.removeEventListener('abort', abort)
        resolve({ socket, head })
      })
      sent.on('response', (answer) => {
        const fail = (text: string) => reject(new EngineError(answer.statusCode ?? 0, messageIn(text)))
        readAll(answer).then(fail, reject)
      })
      sent.on('error', (error) => reject(this.#unreachable(error)))
    })
  }

  /** Lets go of idle connections. */
  close(): void {
    this.#agent.destroy()
  }

  #send(
    method: string,
    path: string,
    headers: Record<string, string> | undefined,
    body: unknown,
    { agent, signal }: { agent: Agent | undefined; signal: AbortSignal | undefined },
  ) {
    const text = body === undefined ? undefined : JSON.stringify(body)
    const content = text === undefined ? {} : { 'content-type': 'application/json' }
    const length = { 'content-length': Buffer.byteLength(text ?? '') }
    const sent = request({
      ...this.#target,
      ...(agent ? { agent } : {}),
      ...(signal ? { signal } : {}),
      method,
      path: `${this.#prefix}${path}`,
      headers: { host: 'engine', ...content, ...length, ...headers },
    })
    sent.end(text)
    return sent
  }

  #unreachable(error: Error): Fault {
    const { socketPath, host, port } = this.#target
    const at = socketPath ?? `${host}:${port}`
    return new Fault('unavailable', `the container engine at ${at} does not answer: ${error.message}`, { cause: error })
  }
}

/** What the engine said no with. */
export class EngineError extends Error {
  readonly status: number

  constructor(status: number, message: string) {
    super(message)
    this.name = 'EngineError'
    this.status = status
  }
}

export interface CallOptions {
  body?: unknown
  headers?: Record<string, string> | undefined
  signal?: AbortSignal | undefined
}

const EngineVersion = z.object({
  Version: z.string().max(200),
  ApiVersion: z.string().regex(/^\d+\.\d+$/),
  Arch: z.string().max(50),
  Components: z.array(z.object({ Name: z.string().max(200) })).nullish(),
})
export type EngineVersion = z.infer<typeof EngineVersion>

const newestKnown = '1.47'

/** 1.9 is older than 1.41. */
function number(version: string): number {
  const [major, minor] = version.split('.').map(Number)
  return (major ?? 0) * 1000 + (minor ?? 0)
}

interface Target {
  socketPath?: string
  host?: string
  port?: number
}

function parseHost(host: string): Target {
  if (host.startsWith('/')) return { socketPath: host }
  const url = URL.parse(host)
  if (url?.protocol === 'unix:' && url.pathname !== '') return { socketPath: decodeURIComponent(url.pathname) }
  if (url?.protocol === 'tcp:' && url.hostname !== '') return { host: url.hostname, port: Number(url.port || 2375) }
  throw new Fault('invalid', `"${host}" is no engine address; write unix:///run/docker.sock or tcp://127.0.0.1:2375`)
}

/** Answers are small, all but the streams, which nobody reads whole. */
async function readAll(answer: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size > 16 << 20) throw new Fault('unavailable', 'the container engine answered with more than 16 MiB')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString()
}

function messageIn(text: string): string {
  try {
    return z.object({ message: z.string() }).parse(JSON.parse(text)).message
  } catch {
    return text.trim() || 'no reason given'
  }
}
