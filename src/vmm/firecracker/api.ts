import { request } from 'node:http'
import { z } from 'zod'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'

/** Firecracker's HTTP API on a Unix socket: small JSON bodies, 204 when it is done, a `fault_message` when it is not. */
export interface FirecrackerApi {
  /** Rejects with a Fault: `invalid` with Firecracker's own words when it refuses, `unavailable` when it is gone. */
  put(path: string, body: object, options?: { signal?: AbortSignal }): Promise<void>
  patch(path: string, body: object, options?: { signal?: AbortSignal }): Promise<void>
  get(path: string, options?: { signal?: AbortSignal }): Promise<unknown>
}

const Refusal = z.object({ fault_message: z.string().max(10_000) })
const maxAnswerBytes = 1 << 20

export function firecrackerApi(socketPath: string): FirecrackerApi {
  const ask = (method: string, path: string, body: object | undefined, signal: AbortSignal | undefined) =>
    new Promise<unknown>((resolve, reject) => {
      const gone = (cause: unknown) =>
        reject(signal?.aborted ? signal.reason : new Fault('unavailable', 'Firecracker is gone', { cause }))
      const text = body === undefined ? '' : JSON.stringify(body)
      const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }
      const sent = request({ socketPath, method, path, headers, agent: false, ...(signal ? { signal } : {}) })
      sent.once('error', gone)
      sent.once('response', (response) => {
        let answer = ''
        response.setEncoding('utf8')
        response.on('error', gone)
        response.on('data', (piece: string) => {
          answer += piece
          if (answer.length > maxAnswerBytes) sent.destroy(new Error('its answer is too long'))
        })
        response.once('end', () => {
          const value = parse(answer)
          if ((response.statusCode ?? 500) < 300) return resolve(value)
          const { data } = Refusal.safeParse(value)
          const cause = new Error(data?.fault_message ?? `status ${response.statusCode}`)
          reject(new Fault('invalid', `Firecracker refused ${method} ${path}`, { cause }))
        })
      })
      sent.end(text)
    })
  return {
    put: async (path, body, { signal } = {}) => void (await ask('PUT', path, body, signal)),
    patch: async (path, body, { signal } = {}) => void (await ask('PATCH', path, body, signal)),
    get: (path, { signal } = {}) => ask('GET', path, undefined, signal),
  }
}

/** Resolves when it answers. */
export async function listening(
  api: FirecrackerApi,
  { clock, signal, gone }: { clock: Clock; signal: AbortSignal; gone: () => boolean },
): Promise<void> {
  for (;;) {
    signal.throwIfAborted()
    try {
      await api.get('/version', { signal })
      return
    } catch (error) {
      if (!(error instanceof Fault) || error.code !== 'unavailable' || gone()) throw error
    }
    await clock.sleep(2, { signal })
  }
}

function parse(text: string): unknown {
  try {
    return text === '' ? undefined : JSON.parse(text)
  } catch {
    return undefined
  }
}
