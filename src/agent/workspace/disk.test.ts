import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { appendFileSync, existsSync, readdirSync, statSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, afterEach, beforeEach, test } from 'node:test'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { pack } from 'tar-stream'
import { systemClock } from '../../kit/system-clock.ts'
import { Fault } from '../../model/fault.ts'
import { type Artifact, JobSpec } from '../../model/job.ts'
import { ArtifactStore } from './artifacts.ts'
import { openWorkspace } from './disk.ts'
import { DiskLog, trimLog } from './log.ts'

let top = ''
let served = new Map<string, RequestListener>()
let hits = 0
const server: Server = createServer((request, response) => {
  hits += 1
  const answer = served.get(request.url ?? '')
  if (answer) answer(request, response)
  else response.writeHead(404).end()
})
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()))
const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
after(() => {
  server.closeAllConnections()
  server.close()
})

beforeEach(async () => {
  top = await mkdtemp(join(tmpdir(), 'tutti-workspace-'))
  await mkdir(join(top, 'task'))
  served = new Map()
  hits = 0
})
afterEach(async () => {
  await rm(top, { recursive: true, force: true })
})

const store = (idleMs = 5000) => new ArtifactStore({ directory: join(top, 'cache'), clock: systemClock, idleMs })

async function bring(
  artifact: Partial<Artifact> & { url: string },
  { maxBytes, idleMs }: { maxBytes?: number; idleMs?: number } = {},
): Promise<string[]> {
  const job = JobSpec.parse({ name: 'j', tasks: { main: { driver: 'process', command: 'x', artifacts: [artifact] } } })
  const [parsed] = job.tasks['main']?.artifacts ?? []
  assert.ok(parsed)
  const said: string[] = []
  await store(idleMs).bring(parsed, join(top, 'task'), {
    signal: new AbortController().signal,
    maxBytes,
    owner: { driver: 'process', user: undefined },
    progress: ({ message }) => said.push(message),
  })
  return said
}

function serve(path: string, body: Uint8Array | string): string {
  served.set(path, (_, response) => response.end(body))
  return origin + path
}

interface Entry {
  name: string
  type?: 'file' | 'directory' | 'symlink' | 'link' | 'character-device'
  linkname?: string
  mode?: number
  body?: string
}

async function tarOf(...entries: Entry[]): Promise<Buffer> {
  const archive = pack()
  for (const { body = '', ...header } of entries) archive.entry(header, body)
  archive.finalize()
  const parts: Buffer[] = []
  for await (const part of archive) parts.push(part as Buffer)
  return Buffer.concat(parts)
}

const sha256 = (data: Uint8Array | string) => `sha256:${createHash('sha256').update(data).digest('hex')}`

/** Nothing of a failed artifact may be left, neither in the task directory nor aside. */
function assertNothingLeft(): void {
  const left = readdirSync(join(top, 'task'), { recursive: true, withFileTypes: true }).filter(
    (entry) => !entry.isDirectory(),
  )
  assert.deepEqual(
    left.map(({ name }) => name),
    [],
  )
  assert.deepEqual(readdirSync(join(top, 'cache')), [])
}

test('a program is fetched by URL, checked, and made executable', async () => {
  const said = await bring({
    url: serve('/bin/tool?token=geheim', '#!/bin/sh\n'),
    checksum: sha256('#!/bin/sh\n'),
    mode: '0755',
  })
  assert.equal(statSync(join(top, 'task/local/tool')).mode & 0o777, 0o755)
  assert.match(said.at(-1) ?? '', /^fetched http:.*\/bin\/tool \(10 B\)$/)
  assert.ok(!said.join().includes('geheim'))
})

test('tar, tar.gz, tar.zst, zip, gz and zst are unpacked by their ending', async () => {
  const tar = await tarOf(
    { name: 'd/run.sh', mode: 0o755, body: 'hi' },
    { name: 'd/link', type: 'symlink', linkname: 'run.sh' },
  )
  for (const [name, body] of [
    ['a.tar', tar],
    ['a.tar.gz', gzipSync(tar)],
    ['a.tar.zst', zstdCompressSync(tar)],
  ] as const) {
    await bring({ url: serve(`/${name}`, body), to: name.replaceAll('.', '-') })
    const path = join(top, 'task', name.replaceAll('.', '-'), 'd')
    assert.equal(await readFile(join(path, 'link'), 'utf8'), 'hi')
    assert.equal(statSync(join(path, 'run.sh')).mode & 0o111, 0o111)
  }
  await bring({ url: serve('/plain.txt.gz', gzipSync('gz')) })
  await bring({ url: serve('/other.txt.zst', zstdCompressSync('zst')) })
  assert.equal(await readFile(join(top, 'task/local/plain.txt'), 'utf8'), 'gz')
  assert.equal(await readFile(join(top, 'task/local/other.txt'), 'utf8'), 'zst')
})

test('a zip is unpacked with its modes (needs zip)', {
  skip: !existsSync('/usr/bin/zip') && 'zip is not installed',
}, async () => {
  await mkdir(join(top, 'z'))
  await writeFile(join(top, 'z/run'), 'x', { mode: 0o755 })
  execFileSync('zip', ['-qr', join(top, 'a.zip'), '.'], { cwd: join(top, 'z') })
  await bring({ url: serve('/a.zip', await readFile(join(top, 'a.zip'))) })
  assert.equal(statSync(join(top, 'task/local/run')).mode & 0o777, 0o755)
})

test('a zip with a link that leads out is refused (needs zip)', {
  skip: !existsSync('/usr/bin/zip') && 'zip is not installed',
}, async () => {
  await mkdir(join(top, 'z'))
  await symlink('../../../etc', join(top, 'z/out'))
  execFileSync('zip', ['-qry', join(top, 'a.zip'), '.'], { cwd: join(top, 'z') })
  await assert.rejects(
    bring({ url: serve('/a.zip', await readFile(join(top, 'a.zip'))) }),
    /entry "out" is refused: it links to/,
  )
  assertNothingLeft()
})

test('no archive gets anything out of its directory', async () => {
  const attacks: Entry[][] = [
    [{ name: '../evil', body: 'x' }],
    [{ name: 'a/../../evil', body: 'x' }],
    [{ name: '/etc/evil', body: 'x' }],
    [{ name: 'l', type: 'symlink', linkname: '/etc' }],
    [{ name: 'l', type: 'symlink', linkname: '../..' }],
    [
      { name: 'd/', type: 'directory' },
      { name: 'l', type: 'symlink', linkname: 'd' },
      { name: 'l/evil', body: 'x' },
    ],
    [{ name: 'h', type: 'link', linkname: '../../../etc/passwd' }],
    [
      { name: 's', type: 'symlink', linkname: 'n' },
      { name: 'h', type: 'link', linkname: 's' },
    ],
    [
      { name: 'b', type: 'symlink', linkname: '.' },
      { name: 'a', type: 'symlink', linkname: 'b/..' },
    ],
    [{ name: 'null', type: 'character-device' }],
  ]
  for (const entries of attacks) {
    const url = serve('/evil.tar', await tarOf({ name: 'good', body: 'g' }, ...entries))
    await assert.rejects(
      bring({ url }),
      (error: Fault) => error instanceof Fault && /refused/.test(error.message),
      JSON.stringify(entries),
    )
    assertNothingLeft()
    assert.ok(!existsSync(join(top, 'evil')))
  }
})

test('an archive that grows beyond the disk of its task is refused', async () => {
  const url = serve('/bomb.gz', gzipSync(Buffer.alloc(50 * 2 ** 20)))
  await assert.rejects(bring({ url }, { maxBytes: 2 ** 20 }), /unpacked it is larger than 1 MiB/)
  assertNothingLeft()
})

test('a broken archive says what it is not', async () => {
  await assert.rejects(bring({ url: serve('/a.tar.gz', 'no gzip at all') }), /cannot be unpacked as tar\.gz/)
  assertNothingLeft()
})

test('a wrong checksum says what was expected and what came', async () => {
  const expected = sha256('other')
  await assert.rejects(bring({ url: serve('/a', 'text'), checksum: expected }), {
    code: 'invalid',
    message: new RegExp(`wrong checksum: expected ${expected}, got ${sha256('text')}`),
  })
  assertNothingLeft()
})

test('a missing file, a server that is not there, and one that falls silent each get a sentence', async () => {
  await assert.rejects(bring({ url: `${origin}/none` }), { code: 'not_found', message: /answered 404/ })
  await assert.rejects(bring({ url: 'http://127.0.0.1:1/x' }), /no connection to 127\.0\.0\.1:1/)
  served.set('/slow', (_, response) => response.writeHead(200, { 'content-length': '1000' }).write('a bit'))
  await assert.rejects(bring({ url: `${origin}/slow` }, { idleMs: 100 }), /nothing came for 100ms/)
  served.set('/cut', (_, response) => {
    response.writeHead(200, { 'content-length': '1000' }).write('a bit')
    setImmediate(() => response.destroy())
  })
  await assert.rejects(bring({ url: `${origin}/cut` }), /broke off/)
  assertNothingLeft()
})

test('redirects are followed, but not for ever, and headers stay with the server they were meant for', async () => {
  served.set('/to', (_, response) => response.writeHead(302, { location: '/there' }).end())
  await bring({ url: `${origin}/to`, name: 'x' })
    .then(() => assert.fail('the target does not exist yet'))
    .catch((error: Error) => assert.match(error.message, /404/))
  serve('/there', 'here')
  await bring({ url: `${origin}/to`, name: 'x' })
  assert.equal(await readFile(join(top, 'task/local/x'), 'utf8'), 'here')
  served.set('/round', (_, response) => response.writeHead(302, { location: '/round' }).end())
  await assert.rejects(bring({ url: `${origin}/round` }), /redirected more than 5 times/)
})

test('many tasks that want the same checksum fetch it once', async () => {
  const artifacts = store()
  const job = JobSpec.parse({
    name: 'j',
    tasks: {
      main: { driver: 'process', command: 'x', artifacts: [{ url: serve('/a', 'text'), checksum: sha256('text') }] },
    },
  })
  const [artifact] = job.tasks['main']?.artifacts ?? []
  assert.ok(artifact)
  const options = {
    signal: new AbortController().signal,
    maxBytes: undefined,
    owner: { driver: 'process', user: undefined } as const,
    progress: () => {},
  }
  await Promise.all(
    Array.from({ length: 20 }, async (_, index) => {
      await mkdir(join(top, `t${index}`))
      await artifacts.bring(artifact, join(top, `t${index}`), options)
    }),
  )
  await artifacts.bring(artifact, join(top, 'task'), options)
  assert.equal(hits, 1)
  assert.equal(await readFile(join(top, 't19/local/a'), 'utf8'), 'text')
})

test('host paths are mounted and read only where the owner allows it, also by way of links', async () => {
  await mkdir(join(top, 'open'))
  await mkdir(join(top, 'closed'))
  await writeFile(join(top, 'closed/secret'), 's')
  await symlink(join(top, 'closed'), join(top, 'open/link'))
  const workspace = openWorkspace({
    root: join(top, 'root'),
    clock: systemClock,
    hostPaths: [join(top, 'open')],
    volumes: { shared: '/srv' },
  })
  const jobWith = (mount: object) =>
    JobSpec.parse({
      name: 'j',
      volumes: { data: {} },
      tasks: { main: { driver: 'container', image: 'x', mounts: [mount] } },
    })
  const mount = async (given: object) => {
    const job = jobWith(given)
    const task = job.tasks['main']
    assert.ok(task)
    return await workspace.mounts(job, task)
  }
  assert.equal((await mount({ host: join(top, 'open'), to: '/x' }))[0]?.source, join(top, 'open'))
  for (const host of [join(top, 'closed'), join(top, 'open/link'), join(top, 'open/../closed'), '/etc']) {
    await assert.rejects(mount({ host, to: '/x' }), {
      code: 'denied',
      message: /may not be mounted on this node; it allows/,
    })
  }
  assert.equal((await mount({ volume: 'shared', to: '/x' }))[0]?.source, '/srv')
  const [data] = await mount({ volume: 'data', to: '/x' })
  assert.ok(data?.source.endsWith('volumes/j.data') && existsSync(data.source))
  await assert.rejects(mount({ volume: 'dta', to: '/x' }), /no volume is named "dta".*data, shared/)
})

test('templates are written inside the task directory only, with references replaced and their variables read', async () => {
  const workspace = openWorkspace({ root: join(top, 'root'), clock: systemClock })
  const places = workspace.places('0'.repeat(16), 'main')
  const job = JobSpec.parse({
    name: 'j',
    tasks: {
      main: {
        driver: 'process',
        command: 'x',
        templates: [{ content: '# x\nA=1 ${port.http}\nexport B="two"\n', to: 'conf/env', env: true, mode: '0600' }],
      },
    },
  })
  const task = job.tasks['main']
  assert.ok(task)
  await workspace.make(places, task)
  const known = new Map([['port.http', '8080']])
  assert.deepEqual(await workspace.render(places, task, known), { A: '1 8080', B: 'two' })
  assert.equal(statSync(join(places.directory, 'conf/env')).mode & 0o777, 0o600)
  await rm(join(places.directory, 'conf'), { recursive: true })
  await symlink(top, join(places.directory, 'conf'))
  await assert.rejects(workspace.render(places, task, known), { code: 'denied' })
  assert.deepEqual(await workspace.list(), [{ allocation: '0'.repeat(16), tasks: ['main'] }])
  await workspace.remove('0'.repeat(16))
  assert.deepEqual(await workspace.list(), [])
})

for (const punch of process.platform === 'linux' ? [true, false] : [false]) {
  test(`output is kept within its bounds, ${punch ? 'by holes' : 'by copies'}, and offsets stay what they were`, async () => {
    const path = join(top, 'task.stdout')
    let written = ''
    const log = new DiskLog(path)
    for (let round = 0; round < 30; round++) {
      const lines = Array.from({ length: 2000 }, (_, index) => `line ${round * 2000 + index}\n`).join('')
      appendFileSync(path, lines)
      written += lines
      await trimLog(path, 64 * 1024, { punch })
    }
    const { start, end } = await log.extent()
    assert.equal(end, written.length)
    assert.ok(end - start >= 64 * 1024 && end - start <= 256 * 1024, `${end - start} bytes kept`)
    let read = ''
    for (let at = start; at < end; ) {
      const chunk = await log.read(at, 10_000)
      assert.ok(chunk.length > 0)
      read += chunk.toString()
      at += chunk.length
    }
    assert.ok(read === written.slice(start), 'what is kept is what was written')
    assert.ok(statSync(path).blocks * 512 <= 256 * 1024)
  })
}
