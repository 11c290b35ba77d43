import type { Clock } from '../../kit/clock.ts'
import { Fault, sentence } from '../../model/fault.ts'
import { formatDuration } from '../../model/units.ts'

const maxRedirects = 5

/**
 * A file over http or https as it was stored, not as a server would like to compress it. There is no limit on the
 * whole time, because files are large; but a server that says nothing for `idleMs` is given up.
 */
export async function download(
  url: string,
  options: { headers: Record<string, string>; clock: Clock; idleMs: number; signal: AbortSignal },
): Promise<{ chunks: AsyncIterable<Uint8Array>; total: number | undefined }> {
  const watch = new Watch(options)
  try {
    const response = await follow(url, options.headers, watch.signal)
    const length = response.headers.get('content-length')
    const coded = response.headers.get('content-encoding')
    const total = length === null || (coded !== null && coded !== 'identity') ? undefined : Number(length)
    return { chunks: watched(response, watch), total }
  } catch (error) {
    watch.end()
    throw watch.signal.aborted ? watch.signal.reason : error
  }
}

async function follow(first: string, given: Record<string, string>, signal: AbortSignal): Promise<Response> {
  let url = new URL(first)
  let headers: Record<string, string> = { ...given, 'accept-encoding': 'identity' }
  for (let redirects = 0; redirects <= maxRedirects; redirects++) {
    const response = await fetch(url, { headers, redirect: 'manual', signal }).catch((error: unknown) => {
      throw signal.aborted
        ? signal.reason
        : new Fault('unavailable', `no connection to ${url.host}: ${reasonOf(error)}`)
    })
    if (response.ok) return response
    await response.body?.cancel().catch(() => {})
    const location = response.headers.get('location')
    if (response.status < 300 || response.status >= 400 || location === null) {
      const code = response.status === 404 || response.status === 410 ? 'not_found' : 'unavailable'
      throw new Fault(code, `${url.host} answered ${response.status} ${response.statusText}`.trim())
    }
    const next = new URL(location, url)
    if (next.protocol !== 'http:' && next.protocol !== 'https:') {
      throw new Fault('denied', `it was redirected to a ${next.protocol} URL`)
    }
    // What was meant for one server, such as a token, is not shown to another.
    if (next.origin !== url.origin) headers = { 'accept-encoding': 'identity' }
    url = next
  }
  throw new Fault('unavailable', `it was redirected more than ${maxRedirects} times`)
}

async function* watched(response: Response, watch: Watch): AsyncGenerator<Uint8Array> {
  try {
    if (!response.body) return
    for await (const chunk of response.body) {
      watch.heard()
      yield chunk
    }
  } catch (error) {
    throw watch.signal.aborted
      ? watch.signal.reason
      : new Fault('unavailable', `the transfer broke off: ${reasonOf(error)}`)
  } finally {
    watch.end()
  }
}

/** Fires its signal when nothing was heard for too long, or with the parent's. */
class Watch {
  readonly signal: AbortSignal
  readonly #clock: Clock
  readonly #done = new AbortController()
  #heardAt: number

  constructor({ clock, idleMs, signal }: { clock: Clock; idleMs: number; signal: AbortSignal }) {
    const silent = new AbortController()
    this.#clock = clock
    this.#heardAt = clock.monotonic()
    this.signal = AbortSignal.any([silent.signal, signal])
    void this.#look(idleMs, silent)
  }

  heard(): void {
    this.#heardAt = this.#clock.monotonic()
  }

  end(): void {
    this.#done.abort()
  }

  async #look(idleMs: number, silent: AbortController): Promise<void> {
    try {
      for (;;) {
        const left = this.#heardAt + idleMs - this.#clock.monotonic()
        if (left <= 0) return silent.abort(new Fault('unavailable', `nothing came for ${formatDuration(idleMs)}`))
        await this.#clock.sleep(left, { signal: this.#done.signal })
      }
    } catch {
      // The transfer is over.
    }
  }
}

/** `fetch failed` says nothing; its cause does. */
function reasonOf(error: unknown): string {
  const { cause } = error as { cause?: unknown }
  return sentence(cause ?? error)
}
