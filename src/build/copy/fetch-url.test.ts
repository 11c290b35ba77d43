import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fetchUrl, withoutSecrets } from './fetch-url.ts'
import { reachability } from './reachable.ts'

async function serve(answer: RequestListener) {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-fetch-'))
  const server = createServer(answer)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const file = join(directory, 'file')
  return {
    file,
    fetch: (path: string, options: Partial<Parameters<typeof fetchUrl>[0]> = {}) =>
      fetchUrl({
        ...{ url: `http://127.0.0.1:${port}${path}`, file, maxBytes: 1000, reachability: () => 'reachable' },
        ...{ signal: AbortSignal.timeout(20_000), ...options },
      }),
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      server.close()
      await rm(directory, { recursive: true, force: true })
    },
  }
}

test('a file is brought through redirects, with its checksum and time', async () => {
  await using server = await serve((request, response) => {
    if (request.url === '/a') response.writeHead(301, { location: 'b' }).end()
    else response.writeHead(200, { 'last-modified': 'Thu, 01 Jan 1970 00:01:00 GMT' }).end('text')
  })
  const hash = createHash('sha256').update('text').digest('hex')
  assert.deepEqual(await server.fetch('/a'), { hash, size: 4, changedAt: 60 })
  assert.equal(await readFile(server.file, 'utf8'), 'text')
})

test('what cannot be fetched says why, and shows no secrets of the URL', async () => {
  await using server = await serve((request, response) => {
    if (request.url?.startsWith('/large')) response.end(Buffer.alloc(2000))
    else if (request.url?.startsWith('/announced')) response.writeHead(200, { 'content-length': 2000 }).end()
    else if (request.url?.startsWith('/again')) response.writeHead(302, { location: '/again' }).end()
    else if (request.url?.startsWith('/file')) response.writeHead(302, { location: 'file:///etc/passwd' }).end()
    else if (!request.url?.startsWith('/silent')) response.writeHead(404).end()
  })
  const cases: [path: string, why: RegExp][] = [
    [
      '/gone?token=xyzzy',
      /^Fault: cannot fetch http:\/\/127\.0\.0\.1:\d+\/gone: 127\.0\.0\.1:\d+ answered 404 Not Found$/,
    ],
    ['/large', /it is larger than the 1,?000 B of the template's disk/],
    ['/announced', /it is larger than/],
    ['/again', /it was redirected more than 5 times/],
    ['/file', /leads to file:/],
    ['/silent', /said nothing for 0\.1 s/],
  ]
  for (const [path, why] of cases) await assert.rejects(server.fetch(path, { idleMs: 100 }), why, path)
  await assert.rejects(server.fetch('/silent', { signal: AbortSignal.timeout(50) }), { name: 'TimeoutError' })
  await assert.rejects(
    server.fetch('', { url: 'http://127.0.0.1:1/' }),
    /cannot fetch .*: the server refuses connections/,
  )
})

test('what only the node can reach is not fetched, by address or by name', async () => {
  await using server = await serve((_, response) => response.end('secret'))
  const refused = /is an address of the node itself; fetch it in a RUN step/
  await assert.rejects(server.fetch('/', { reachability }), refused)
  for (const url of ['http://localhost:1/', 'http://0x7f.1/', 'http://[::1]/', 'http://2130706433/'])
    await assert.rejects(server.fetch('', { url, reachability }), refused)
  assert.equal(withoutSecrets('https://user:password@host/a?b#c'), 'https://host/a')
})

test('a private address is not fetched from, also behind a redirect, and the setting that allows it is named', async () => {
  await using server = await serve((_, response) => response.writeHead(302, { location: 'http://10.0.0.1/' }).end())
  const refused = /10\.0\.0\.1 is in a private range of the node's network, which .* TUTTI_FETCH_FROM/
  await assert.rejects(server.fetch('', { url: 'http://10.0.0.1/', reachability }), refused)
  const onlyHere = (address: string) => (address === '127.0.0.1' ? 'reachable' : reachability(address))
  await assert.rejects(server.fetch('/', { reachability: onlyHere }), refused)
})
