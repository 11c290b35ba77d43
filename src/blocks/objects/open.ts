import type { Random } from '../../kit/random.ts'
import { Fault } from '../../model/fault.ts'
import type { ObjectStore } from '../objects.ts'

/**
 * The object store of a URL. The client libraries of S3 and Google are loaded only when they are used. Credentials are
 * not part of the URL: they come from where the tools of Amazon and Google find them.
 *
 *     file:/var/lib/tutti/blocks
 *     s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=eu-central-1&profile=work
 *     gs://bucket/prefix?endpoint=http://127.0.0.1:9001&credentials=/etc/tutti/key.json
 */
export async function openObjects(text: string, { random }: { random: Random }): Promise<ObjectStore> {
  const url = URL.parse(text)
  if (!url) throw refused(text, 'it is not a URL')
  if (url.username || url.password) throw refused(`${url.protocol}//…`, 'credentials do not belong into it')
  switch (url.protocol) {
    case 'file:': {
      const directory = decodeURIComponent(url.pathname)
      if (url.host || !/^file:(\/\/)?\//.test(text) || /^\/*$/.test(directory))
        throw refused(text, 'it needs an absolute path')
      optionsOf(url, [])
      const { fileObjects } = await import('./file.ts')
      return fileObjects({ directory: directory.replace(/\/+$/, ''), random })
    }
    case 's3:': {
      const { s3Objects } = await import('./s3.ts')
      return s3Objects({ ...bucketOf(url), ...optionsOf(url, ['endpoint', 'region', 'profile']) })
    }
    case 'gs:': {
      const { gsObjects } = await import('./gs.ts')
      return gsObjects({ ...bucketOf(url), ...optionsOf(url, ['endpoint', 'credentials']) })
    }
    default:
      throw refused(text, `nothing is known of ${url.protocol}`)
  }
}

function bucketOf(url: URL): { bucket: string; prefix: string } {
  if (!/^[a-z0-9][a-z0-9._-]{1,221}$/.test(url.hostname)) throw refused(url.href, 'it names no bucket')
  const path = decodeURIComponent(url.pathname).replace(/^\/+|\/+$/g, '')
  return { bucket: url.hostname, prefix: path === '' ? '' : `${path}/` }
}

function optionsOf(url: URL, known: readonly string[]): Record<string, string> {
  for (const [name, value] of url.searchParams) {
    if (!known.includes(name))
      throw refused(url.href, `"${name}" is not known; it takes ${known.join(', ') || 'nothing'}`)
    if (name === 'endpoint' && !/^https?:\/\/[^/]+/.test(value))
      throw refused(url.href, 'its endpoint is not an http URL')
  }
  return Object.fromEntries(url.searchParams)
}

function refused(text: string, reason: string): Fault {
  return new Fault(
    'invalid',
    `"${text}" cannot be an object store: ${reason}; write file:/path, s3://bucket/prefix or gs://bucket/prefix`,
  )
}
