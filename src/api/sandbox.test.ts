import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type IncomingMessage } from 'node:http'
import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { WebSocket, WebSocketServer } from 'ws'
import { tuttiOf } from '../client/connect.ts'
import { Fault } from '../model/fault.ts'
import type { BuildId, SandboxId } from '../model/ids.ts'
import { openSandboxApi } from './testing.ts'

async function open() {
  await using undo = new AsyncDisposableStack()
  const api = undo.use(await openSandboxApi())
  const node = await api.world.addNode('a')
  await api.world.addTemplate('base', [node])
  const tutti = tuttiOf(api.client)
  const owned = undo.move()
  return { ...api, node, tutti, [Symbol.asyncDispose]: () => owned.disposeAsync() }
}

test('a sandbox is created, runs commands, and is killed by leaving its block', async () => {
  await using at = await open()
  let id = ''
  {
    await using sandbox = await at.tutti.sandboxes.create({ env: { NAME: 'world' } })
    id = sandbox.id
    assert.deepEqual(await sandbox.exec('echo "hello $NAME"; echo oops >&2; exit 3'), {
      code: 3,
      stdout: 'hello world\n',
      stderr: 'oops\n',
    })
    assert.equal((await sandbox.exec(['cat'], { input: 'in' })).stdout, 'in')
    await assert.rejects(sandbox.exec(['no-such-program']), { code: 'invalid', message: /no program/ })
    assert.equal((await sandbox.metrics()).processes, 12)
    assert.match(await sandbox.logs(), /Linux version/)
    const terminal = await sandbox.pty({ command: 'echo $COLUMNS', columns: 100 })
    assert.equal(await text(terminal.stdout), '100\n')
  }
  assert.equal((await at.tutti.sandboxes.get(id)).info.phase, 'killed')
  assert.ok(!at.node.sandboxes.has(id as never))
})

test('a command that was let go of is listed, joined, written to and ended', async () => {
  await using at = await open()
  await using sandbox = await at.tutti.sandboxes.create()
  const script = 'echo one; read a; echo "two $a" >&2; read b; echo "three $b"; exit 7'
  const running = await sandbox.start(script, { detached: true })
  const { pid } = await running.started
  assert.equal(String((await once(running.stdout, 'data'))[0]), 'one\n')
  running.close()
  running.exited.catch(() => {})
  const [listed] = await sandbox.processes()
  assert.deepEqual(listed, { pid, command: ['/bin/sh', '-c', script], startedAt: 1, running: true, code: null })
  const joined = await sandbox.attach(pid)
  assert.deepEqual(await joined.started, { pid, from: 0, terminal: false })
  const other = await sandbox.attach(pid)
  joined.stdin.write('x\n')
  await sandbox.sendInput(pid, 'y\n', { end: true })
  assert.deepEqual(await Promise.all([text(joined.stdout), text(joined.stderr), joined.exited]), [
    'one\nthree y\n',
    'two x\n',
    { code: 7 },
  ])
  assert.deepEqual(await Promise.all([text(other.stdout), other.exited]), ['one\nthree y\n', { code: 7 }])
  assert.deepEqual(
    (await sandbox.processes()).map(({ code }) => code),
    [7],
  )

  const sleeping = await sandbox.start('echo up; exec sleep 1000', { detached: true, stdin: false })
  const sleeper = (await sleeping.started).pid
  await sandbox.signal(sleeper)
  assert.deepEqual(await sleeping.exited, { code: 143 })
  await assert.rejects(sandbox.attach(4_194_304), { code: 'not_found' })
  await assert.rejects(sandbox.attach(0), { code: 'invalid' })
})

test('files go in and out whole, of any size, and their absence has a name', async () => {
  await using at = await open()
  await using sandbox = await at.tutti.sandboxes.create()
  const { files } = sandbox
  const big = Buffer.alloc(5 * 2 ** 20, 'x')
  await files.write('/srv/big', Readable.from([big.subarray(0, 100), big.subarray(100)]))
  assert.ok((await files.read('/srv/big')).equals(big))
  await files.write('/srv/a.json', '{"a":1}')
  assert.equal(await files.text('/srv/a.json'), '{"a":1}')
  await files.write('/srv/empty', '')
  assert.equal((await files.read('/srv/empty')).length, 0)
  const part = await files.stream('/srv/a.json', { offset: 1, length: 3 })
  assert.equal(await text(part), '"a"')
  assert.deepEqual((await files.list('/srv')).map(({ name }) => name).sort(), ['a.json', 'big', 'empty'])
  await files.move('/srv/a.json', '/srv/b.json')
  assert.equal(await files.exists('/srv/a.json'), false)
  assert.equal((await files.stat('/srv/b.json')).size, 7)
  await files.remove('/srv')
  await assert.rejects(files.read('/srv/big'), { code: 'not_found' })
  const seen: string[] = []
  for await (const event of files.watch('/srv')) seen.push(event.kind)
  assert.deepEqual(seen, ['ready', 'created', 'changed', 'removed'])
})

test('what does not fit on the disk is refused with the reason, and nobody waits for the rest of it', async () => {
  await using at = await open()
  await using sandbox = await at.tutti.sandboxes.create()
  const endless = new Readable({
    read() {
      setImmediate(() => this.push(Buffer.alloc(65_536)))
    },
  })
  await assert.rejects(sandbox.files.write('/full/big', endless), {
    code: 'exhausted',
    message: 'cannot write "/full/big": no space left on device',
  })
})

test('a port inside is reached as bytes, and from a port of this machine', async () => {
  await using at = await open()
  await using sandbox = await at.tutti.sandboxes.create()
  const server = createTcpServer({ allowHalfOpen: true }, (socket) => {
    let length = 0
    socket.on('data', (chunk) => {
      length += chunk.length
    })
    socket.on('end', () => socket.end(`got ${length}`))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const stream = await sandbox.connect(port)
  stream.end(Buffer.alloc(3 * 2 ** 20))
  assert.equal(await text(stream), `got ${3 * 2 ** 20}`)
  server.close()
  await assert.rejects(sandbox.connect(port), { code: 'not_found', message: /nothing listens on port/ })

  const web = createServer((_request, response) => response.end('inside')).listen(0, '127.0.0.1')
  await once(web, 'listening')
  const forwarded = await sandbox.forward((web.address() as AddressInfo).port)
  assert.equal(
    await (await fetch(`http://127.0.0.1:${forwarded.port}/`, { headers: { connection: 'close' } })).text(),
    'inside',
  )
  await forwarded[Symbol.asyncDispose]()
  web.closeAllConnections()
  web.close()
})

test('a port answers HTTP and WebSockets by address and by name, to who shows a token, which goes no further', async () => {
  await using at = await open()
  await using sandbox = await at.tutti.sandboxes.create()
  const seen: IncomingMessage[] = []
  const web = createServer(async (request, response) => {
    seen.push(request)
    response.setHeader('x-inside', 'yes')
    response.end(`${request.method} ${request.url} ${await text(request)}`)
  }).listen(0, '127.0.0.1')
  const sockets = new WebSocketServer({ server: web })
  sockets.on('connection', (socket) => socket.on('message', (data) => socket.send(`echo ${data}`)))
  await once(web, 'listening')
  const { port } = web.address() as AddressInfo
  const url = sandbox.url(port, '/a/b?c=d')
  const bearer = { authorization: `Bearer ${at.token}` }

  assert.equal((await fetch(url)).status, 401)
  assert.equal((await fetch(url, { headers: { authorization: 'Bearer tutti_x_y' } })).status, 401)
  const posted = await fetch(url, { method: 'POST', body: 'body', headers: bearer })
  assert.equal(await posted.text(), 'POST /a/b?c=d body')
  assert.equal(posted.headers.get('x-inside'), 'yes')
  assert.equal(seen.at(-1)?.headers.authorization, undefined)

  const visited = await fetch(`${sandbox.url(port)}?tutti-token=${at.token}&x=1`)
  assert.equal(await visited.text(), 'GET /?x=1 ')
  const cookie = visited.headers.get('set-cookie') ?? ''
  assert.match(cookie, /^tutti-token=.*; Path=\/v1\/sandboxes\/.*\/; HttpOnly/)
  const again = await fetch(sandbox.url(port), { headers: { cookie: `own=1; ${cookie.split(';')[0]}` } })
  assert.equal(again.status, 200)
  assert.equal(seen.at(-1)?.headers.cookie, 'own=1')

  const named = await new Promise<string>((resolve, reject) => {
    const { hostname, port: own } = new URL(at.url)
    void import('node:http').then(({ get }) =>
      get(
        { hostname, port: own, path: '/by-name', headers: { ...bearer, host: `${port}-${sandbox.id}.example.test` } },
        (response) => void text(response).then(resolve, reject),
      ).on('error', reject),
    )
  })
  assert.equal(named, 'GET /by-name ')

  const socket = new WebSocket(sandbox.url(port).replace('http', 'ws'), { headers: bearer })
  await once(socket, 'open')
  socket.send('hi')
  assert.equal(String((await once(socket, 'message'))[0]), 'echo hi')
  socket.close()
  await once(socket, 'close')
  const refused = new WebSocket(sandbox.url(port).replace('http', 'ws'))
  const [, response] = (await once(refused, 'unexpected-response')) as [unknown, IncomingMessage]
  assert.equal(response.statusCode, 401)
  refused.on('error', () => {})
  refused.terminate()
  web.closeAllConnections()
  web.close()
  assert.equal((await fetch(url, { headers: bearer })).status, 404)
})

test('who wants in resumes a paused sandbox that was made so, and no other', async () => {
  await using at = await open()
  await using sandbox = await at.tutti.sandboxes.create({ autoResume: true })
  await sandbox.pause()
  const [first, second] = await Promise.all([sandbox.exec('echo 1'), sandbox.exec('echo 2')])
  assert.deepEqual([first.stdout, second.stdout], ['1\n', '2\n'])
  assert.equal(at.node.requests.filter(({ op }) => op === 'resume').length, 1)
  await using other = await at.tutti.sandboxes.create()
  await other.pause()
  await assert.rejects(other.exec('echo 1'), { code: 'conflict', message: /is paused.*tutti sandbox resume/ })
})

test('sandboxes are found by their metadata, phase and template', async () => {
  await using at = await open()
  await using one = await at.tutti.sandboxes.create({ metadata: { team: 'a,b=c', x: '1' }, name: 'one' })
  await using two = await at.tutti.sandboxes.create({ metadata: { team: 'other' } })
  await two.pause()
  const ids = async (filter: Parameters<typeof at.tutti.sandboxes.list>[0]) =>
    (await at.tutti.sandboxes.list(filter)).map(({ id }) => id)
  assert.deepEqual(await ids({ metadata: { team: 'a,b=c' } }), [one.id])
  assert.deepEqual(await ids({ metadata: { team: 'a,b=c', x: '2' } }), [])
  assert.deepEqual(await ids({ phase: 'paused' }), [two.id])
  assert.deepEqual((await ids({ template: 'base' })).sort(), [one.id, two.id].sort())
  assert.equal((await at.tutti.sandboxes.get('one')).id, one.id)
  await assert.rejects(at.tutti.sandboxes.create({ metadata: { '': 'x' } }), { code: 'invalid' })
})

test('a template is built with its context, says what it does, and can be followed, tagged and deleted', async () => {
  await using at = await open()
  let sent = 0
  at.node.buildScript = (say, context) => {
    sent = context.length
    say({ log: { at: 1, level: 'info', step: 1, message: 'RUN make' } })
    say({ log: { at: 2, level: 'warning', step: 2, message: 'slow' } })
    say({ built: { machine: { arch: 'amd64', cpus: 2, memoryMiB: 512 }, diskMiB: 2048, addedBytes: 5 } })
  }
  const lines: string[] = []
  const build = await at.tutti.templates.build('web', {
    recipe: { from: { image: 'debian:12' }, steps: [] },
    tags: ['latest', 'v1'],
    context: Buffer.alloc(3 * 2 ** 20),
    onLog: ({ message }) => lines.push(message),
  })
  assert.deepEqual(lines, ['RUN make', 'slow'])
  assert.equal(sent, 3 * 2 ** 20)
  assert.deepEqual([build.status, build.machine?.memoryMiB, build.diskMiB], ['ready', 512, 2048])
  await using sandbox = await at.tutti.sandboxes.create({ template: 'web:v1' })
  assert.equal(sandbox.info.build, build.id)
  const kept: string[] = []
  for await (const { message } of at.client.buildLogs({ build: 'web' })) kept.push(message)
  assert.deepEqual(kept, lines)
  await at.tutti.templates.tag('web', 'v2', build.id)
  await at.client.aliasTemplate({ template: 'web', alias: 'www' })
  assert.equal((await at.tutti.sandboxes.create({ template: 'www:v2' })).info.template, 'web')

  at.node.buildScript = () => {
    throw new Fault('invalid', 'Dockerfile:2: RUN make failed with 2')
  }
  await assert.rejects(
    at.tutti.templates.build('web', { recipe: { from: { template: 'web' }, steps: [] } }),
    /Dockerfile:2: RUN make failed with 2/,
  )
  at.node.buildScript = (say) => say({ fault: { code: 'exhausted', message: 'the disk is full' } })
  await assert.rejects(
    at.tutti.templates.build('web', { recipe: { from: { image: 'x' }, steps: [] } }),
    /the disk is full/,
  )
  assert.equal((await at.tutti.templates.get('web')).template.tags.latest, build.id)
  await at.tutti.templates.delete('web')
  await assert.rejects(at.tutti.sandboxes.create({ template: 'web' }), { code: 'not_found' })
  for (let tries = 0; at.node.builds.has(build.id) && tries < 200; tries += 1)
    await new Promise((resolve) => setTimeout(resolve, 10))
  assert.ok(!at.node.builds.has(build.id))
})

test('who does not wait for a build finds its tags and aliases all the same, and its credentials nowhere', async () => {
  await using at = await open()
  const given: unknown[] = []
  at.node.buildScript = (say, _context, { credentials }) => {
    given.push(credentials)
    say({ built: { machine: { arch: 'amd64', cpus: 1, memoryMiB: 256 } } })
  }
  const recipe = { from: { image: 'registry.example/private:1' }, steps: [] }
  const credentials = { username: 'ada', password: 'open sesame' }
  const { build } = await at.client.buildTemplate({
    template: 'web',
    body: { recipe, tags: ['v1'], aliases: ['www', 'site'], credentials },
  })
  assert.equal(build.status, 'building')
  for await (const _line of at.client.buildLogs({ build: build.id, follow: true })) void _line
  const { template } = await at.tutti.templates.get('www')
  assert.deepEqual([template.tags, template.aliases], [{ v1: build.id }, ['www', 'site']])
  assert.deepEqual(given, [credentials])
  const { view } = at.world.control.store
  for (const table of ['builds', 'templates', 'events', 'audit'] as const)
    assert.doesNotMatch(JSON.stringify([...view.all(table)]), /sesame/, table)
  const taken = at.client.buildTemplate({ template: 'other', body: { recipe, aliases: ['www'] } })
  await assert.rejects(taken, { code: 'conflict', message: '"www" is template "web" already' })
  const nobody = { username: 'a:b', password: 'x' }
  await assert.rejects(at.client.buildTemplate({ template: 'web', body: { recipe, credentials: nobody } }), /colon/)
})

test('a build that was copied into the stores of nodes is imported, and once more when it lies on another', async () => {
  await using at = await open()
  const other = await at.world.addNode('b')
  const id = '0123456789abcdef' as BuildId
  const wanted = { body: { build: id, template: 'moved', tag: 'v1' } }
  await assert.rejects(at.client.importBuild(wanted), {
    code: 'not_found',
    message: `build ${id} cannot be imported: no node has it; "tutti build copy" brings it there`,
  })
  at.node.builds.add(id)
  const { build } = await at.client.importBuild(wanted)
  assert.deepEqual(
    [build.status, build.reason, build.template, build.nodes],
    ['ready', 'snapshot', 'moved', [at.node.id]],
  )
  await using sandbox = await at.tutti.sandboxes.create({ template: 'moved:v1' })
  assert.equal(sandbox.info.build, id)
  await assert.rejects(at.client.importBuild({ body: { build: id, node: 'b' } }), /node "b" does not have it/)
  other.builds.add(id)
  const again = await at.client.importBuild({ body: { build: id, node: 'b' } })
  assert.deepEqual([again.build.nodes, again.build.template], [[at.node.id, other.id], 'moved'])
  assert.equal((await at.tutti.sandboxes.create({ template: id, node: 'b' })).info.node, other.id)
})

test('operators see states, durations, failures and what nodes measure', async () => {
  await using at = await open()
  const sandbox = await at.tutti.sandboxes.create()
  await sandbox.pause()
  await assert.rejects(at.tutti.sandboxes.create({ template: 'none' }), { code: 'not_found' })
  const dying = await at.tutti.sandboxes.create()
  await at.node.crash(dying.id as SandboxId, 'its VM ended')
  const blocks = { wholeBytes: 10, fetchedBytes: 20, downloadedBytes: 30, readBytes: 40, writtenBytes: 50 }
  const hugePages = { setAsideBytes: 70, freeBytes: 60 }
  await at.node.report({ measures: { starts: { running: 1, waiting: 2, none: 3 }, freeMemory: 7, hugePages, blocks } })
  let text = ''
  for (let tries = 0; !text.includes('tutti_node_memory_free_bytes{') && tries < 200; tries += 1) {
    await new Promise((resolve) => setTimeout(resolve, 10))
    text = await at.client.metrics()
  }
  for (const line of [
    'tutti_sandboxes{state="paused"} 1',
    'tutti_sandboxes{state="failed"} 1',
    'tutti_sandboxes{state="running"} 0',
    'tutti_builds{state="ready"} 2',
    'tutti_sandbox_operation_seconds_count{operation="create"} 2',
    'tutti_sandbox_operation_seconds_count{operation="pause"} 1',
    'tutti_sandbox_operation_failures_total{operation="create",code="not_found"} 1',
    'tutti_sandboxes_failed_total 1',
    'tutti_node_sandbox_memory_reserved_bytes{node="a"} 0',
    'tutti_node_memory_free_bytes{node="a"} 7',
    'tutti_node_huge_page_bytes{node="a",kind="set_aside"} 70',
    'tutti_node_huge_page_bytes{node="a",kind="free"} 60',
    'tutti_node_sandbox_starts_total{node="a",ahead="waiting"} 2',
    'tutti_node_chunk_bytes{node="a",kind="fetched"} 20',
    'tutti_node_block_bytes_total{node="a",direction="downloaded"} 30',
  ])
    assert.ok(text.includes(`${line}\n`), `${line} is missing in ${text}`)
})
