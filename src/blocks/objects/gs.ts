import type { Storage, StorageOptions } from '@google-cloud/storage'
import { Fault, type FaultCode, sentence } from '../../model/fault.ts'
import type { ObjectStore } from '../objects.ts'
import { bytesOf, rangeIn } from './body.ts'
import { checkKey } from './keys.ts'
import { refusal } from './refusal.ts'

export interface GsOptions {
  bucket: string
  /** Before every key; ends with a slash, or empty. */
  prefix: string
  /** Another server of the same protocol, which is then asked without credentials. */
  endpoint?: string | undefined
  /** File with the key of a service account; without it, whatever Google's tools would use. */
  credentials?: string | undefined
}

/** Objects in a bucket of Google Cloud Storage. An upload is one request, so it is there whole or not at all. */
export async function gsObjects({ bucket: name, prefix, endpoint, credentials }: GsOptions): Promise<ObjectStore> {
  const google = await import('@google-cloud/storage')
  const options: StorageOptions = {
    ...(endpoint ? { apiEndpoint: endpoint } : {}),
    ...(credentials ? { keyFilename: credentials } : {}),
    // Who waits and for how long is decided by the caller; see `retrying`.
    retryOptions: { maxRetries: 1, totalTimeout: 30 },
  }
  const storage: Storage = new google.Storage(options)
  const bucket = storage.bucket(name)
  const url = `gs://${name}/${prefix}`.replace(/\/$/, '')
  const file = (key: string) => bucket.file(prefix + checkKey(key))
  const failed = (verb: string, key: string, error: unknown): never => {
    throw gsFault(`cannot ${verb} ${key} in ${url}`, error)
  }
  /** Not the library's own: it goes through so many streams that Node warns of a leak, and is slower by far. */
  const download = async (key: string, range: string | undefined, signal?: AbortSignal): Promise<Response> => {
    const path = `/storage/v1/b/${name}/o/${encodeURIComponent(prefix + checkKey(key))}?alt=media`
    const headers = endpoint ? new Headers() : await storage.authClient.getRequestHeaders()
    if (range) headers.set('range', range)
    const response = await fetch(storage.apiEndpoint + path, { headers, ...(signal ? { signal } : {}) })
    if (response.ok) return response
    await response.body?.cancel()
    throw Object.assign(new Error(`the server answered ${response.status}`), { code: response.status })
  }
  return {
    url,

    async get(key, { offset = 0, length, signal } = {}) {
      if (length === 0) return Buffer.alloc(0)
      const range = offset > 0 || length !== undefined
      const last = length === undefined ? '' : offset + length - 1
      try {
        const response = await download(key, range ? `bytes=${offset}-${last}` : undefined, signal)
        return Buffer.from(await response.arrayBuffer())
      } catch (error) {
        if (statusOf(error) === 416) return Buffer.alloc(0)
        signal?.throwIfAborted()
        return failed('read', key, error)
      }
    },

    async tail(key, length) {
      try {
        const response = await download(key, `bytes=-${length}`)
        const bytes = Buffer.from(await response.arrayBuffer())
        return { bytes, size: rangeIn(response.headers.get('content-range'))?.size ?? bytes.length }
      } catch (error) {
        if (statusOf(error) === 404) return undefined
        if (statusOf(error) === 416) return { bytes: Buffer.alloc(0), size: 0 }
        return failed('read', key, error)
      }
    },

    async size(key) {
      try {
        const [{ size }] = await file(key).getMetadata()
        return Number(size)
      } catch (error) {
        if (statusOf(error) === 404) return undefined
        return failed('look for', key, error)
      }
    },

    async put(key, body, { size, signal }) {
      const target = file(key)
      const bytes = await bytesOf(key, body, size)
      signal?.throwIfAborted()
      try {
        await target.save(bytes, { resumable: false, validation: 'crc32c' })
      } catch (error) {
        failed('write', key, error)
      }
    },

    async delete(key) {
      try {
        await file(key).delete({ ignoreNotFound: true })
      } catch (error) {
        failed('delete', key, error)
      }
    },

    async *list(start) {
      let pageToken: string | undefined
      do {
        const query = { prefix: prefix + start, autoPaginate: false, ...(pageToken ? { pageToken } : {}) }
        const [files, next] = await bucket
          .getFiles(query)
          .catch((error) => failed('list', start === '' ? 'everything' : start, error))
        for (const { name: key, metadata } of files)
          yield {
            key: key.slice(prefix.length),
            size: Number(metadata.size),
            changedAt: metadata.updated ? Date.parse(metadata.updated) : 0,
          }
        pageToken = (next as { pageToken?: string } | null)?.pageToken
      } while (pageToken)
    },
  }
}

function statusOf(error: unknown): number | undefined {
  const { code, status } = error as { code?: unknown; status?: unknown }
  const number = Number(code ?? status)
  return Number.isInteger(number) ? number : undefined
}

const codes: Record<number, FaultCode> = {
  401: 'denied',
  403: 'denied',
  404: 'not_found',
  413: 'exhausted',
  507: 'exhausted',
}

function gsFault(tried: string, error: unknown): Fault {
  if (error instanceof Fault) return error
  const message = sentence(error)
  const isWithoutCredentials = /could not load the default credentials/i.test(message)
  const code = isWithoutCredentials ? 'denied' : (codes[statusOf(error) ?? 0] ?? 'unavailable')
  const status = statusOf(error)
  const said = isWithoutCredentials ? 'no Google credentials were found' : message
  return refusal(tried, error, { code, status, isTooLarge: status === 413, said })
}
