import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type DemoImage, digestOf } from './image.ts'

/** Where the demo's jobs fetch from: a program by URL and an image by its registry protocol, on loopback only. */
export interface DemoSource extends AsyncDisposable {
  address: string
}

export async function serveDemo(files: ReadonlyMap<string, Buffer>, image: DemoImage | undefined): Promise<DemoSource> {
  const server = createServer((request, response) => answer(request, response, files, image))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections()
      server.close()
    },
  }
}

function answer(
  request: IncomingMessage,
  response: ServerResponse,
  files: ReadonlyMap<string, Buffer>,
  image: DemoImage | undefined,
): void {
  const found = lookUp((request.url ?? '/').split('?')[0] ?? '/', files, image)
  if (!found) {
    response.writeHead(404).end()
    return
  }
  const { type, body } = found
  response.writeHead(200, {
    'content-type': type,
    'content-length': body.length,
    'docker-content-digest': digestOf(body),
  })
  response.end(request.method === 'HEAD' ? undefined : body)
}

/** Files by their path, and the part of the OCI distribution specification (1.1) that a pull needs. */
function lookUp(
  path: string,
  files: ReadonlyMap<string, Buffer>,
  image: DemoImage | undefined,
): { type: string; body: Buffer } | undefined {
  const file = files.get(path)
  if (file) return { type: 'application/octet-stream', body: file }
  if (!image) return undefined
  if (path === '/v2/') return { type: 'application/json', body: Buffer.from('{}') }
  if (path.startsWith('/v2/demo/hello/manifests/')) return { type: image.manifestType, body: image.manifest }
  const blob = image.blobs.get(/^\/v2\/demo\/hello\/blobs\/(sha256:[0-9a-f]{64})$/.exec(path)?.[1] ?? '')
  return blob && { type: 'application/octet-stream', body: blob }
}
