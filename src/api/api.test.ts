import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { WebSocket } from 'ws'
import { type EndpointName, endpoints } from '../contract/endpoints.ts'
import { createAccessToken } from '../control/actions/tokens.ts'
import { createAuthority } from '../control/authority/authority.ts'
import { openSandboxes } from '../control/sandboxes/sandboxes.ts'
import { Sessions } from '../control/sessions/sessions.ts'
import { openTestControl, testJob } from '../control/testing.ts'
import { accessRoles } from '../model/records.ts'
import { createApi } from './api.ts'

/** The real API over a real socket, with a store in memory. */
async function openApi() {
  await using undo = new AsyncDisposableStack()
  const control = undo.use(await openTestControl())
  const authority = await createAuthority({ name: 'test', clock: control.clock, random: control.random })
  const server = createServer()
  const sessions = new Sessions(control)
  const stopping = new AbortController()
  undo.defer(async () => stopping.abort())
  const sandboxes = openSandboxes({ control, nodes: sessions, signal: stopping.signal })
  const api = await createApi({ server, control, authority, sessions, sandboxes, version: '0.0.0' })
  undo.defer(() => api.close())
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  undo.defer(async () => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  const url = `http://127.0.0.1:${port}`
  const tokenFor = async (...roles: (typeof accessRoles)[number][]) =>
    (
      await createAccessToken(control, {
        by: 'test',
        name: `t-${roles.join('-').replaceAll(':', '-') || 'none'}-${Math.random()}`,
        roles,
        expiresInMs: null,
      })
    ).token
  const ask = async (method: string, path: string, { token, body }: { token?: string; body?: unknown } = {}) => {
    const response = await fetch(`${url}${path}`, {
      method,
      headers: {
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const text = await response.text()
    return {
      status: response.status,
      value: text.startsWith('{') ? (JSON.parse(text) as Record<string, unknown>) : text,
    }
  }
  const owned = undo.move()
  return { control, url, tokenFor, ask, [Symbol.asyncDispose]: () => owned.disposeAsync() }
}

const names = Object.keys(endpoints) as EndpointName[]
const filled = (path: string) => path.replace(/:\w+/g, 'x')

test('every endpoint but the public ones refuses who shows no token, and who lacks its role', async () => {
  await using api = await openApi()
  for (const name of names) {
    const { method, path, role } = endpoints[name]
    if (role === 'public') continue
    const others = accessRoles.filter((other) => other !== role)
    const token = await api.tokenFor(...others)
    if ('stream' in endpoints[name] && endpoints[name].stream === 'websocket') {
      assert.equal(await upgradeStatus(`${api.url}${filled(path)}`), 401, `${name} without a token`)
      assert.equal(await upgradeStatus(`${api.url}${filled(path)}`, token), 403, `${name} with other roles`)
      continue
    }
    assert.equal((await api.ask(method, filled(path))).status, 401, `${name} without a token`)
    assert.equal(
      (await api.ask(method, filled(path), { token })).status,
      role === 'agent' ? 401 : 403,
      `${name} with other roles`,
    )
  }
})

test('a job that is applied can be read, watched, planned, stopped and purged', async () => {
  await using api = await openApi()
  const token = await api.tokenFor(...accessRoles)
  const spec = testJob({ name: 'web', count: 2 })
  assert.equal((await api.ask('PUT', '/v1/jobs/web', { token, body: { spec } })).status, 200)
  const read = await api.ask('GET', '/v1/jobs/web', { token })
  assert.equal((read.value as { job: { version: number } }).job.version, 1)
  const planned = await api.ask('POST', '/v1/jobs/plan', { token, body: { spec: { ...spec, count: 3 } } })
  assert.deepEqual((planned.value as { changes: unknown[] }).changes, [{ path: 'count', before: 2, after: 3 }])
  assert.equal((await api.ask('DELETE', '/v1/jobs/web', { token })).status, 409)
  assert.equal((await api.ask('POST', '/v1/jobs/web/stop', { token })).status, 200)
  assert.equal((await api.ask('DELETE', '/v1/jobs/web', { token })).status, 204)
  assert.equal((await api.ask('GET', '/v1/jobs/web', { token })).status, 404)
  const audit = await api.ask('GET', '/v1/audit', { token })
  const actions = (audit.value as { audit: { action: string }[] }).audit.map((row) => row.action)
  assert.deepEqual(
    actions.filter((action) => action.startsWith('job.')),
    ['job.apply', 'job.stop', 'job.purge'],
  )
})

test('a request that is wrong is told where, and nothing is stored', async () => {
  await using api = await openApi()
  const token = await api.tokenFor(...accessRoles)
  const index = api.control.store.index
  const wrong = await api.ask('PUT', '/v1/jobs/web', { token, body: { spec: { name: 'web', tasks: {} } } })
  assert.equal(wrong.status, 400)
  assert.match(
    String((wrong.value as { message: string }).message),
    /"spec\.tasks" in the body: a job needs at least one task/,
  )
  const role = await api.ask('POST', '/v1/tokens', { token, body: { name: 'ci', roles: ['boss'], expiresInMs: null } })
  assert.match(
    String((role.value as { message: string }).message),
    /^"roles\.0" in the body: it must be one of compute:read, compute:write, /,
  )
  const other = await api.ask('PUT', '/v1/jobs/web', { token, body: { spec: testJob({ name: 'api' }) } })
  assert.match(
    String((other.value as { message: string }).message),
    /the path names job "web" but the spec is of "api"/,
  )
  const huge = await api.ask('PUT', '/v1/jobs/web', { token, body: { spec: 'x'.repeat(3 * 2 ** 20) } })
  assert.match(String((huge.value as { message: string }).message), /over the limit/)
  assert.equal(api.control.store.index, index)
})

test('a watch gives what there is and then every change, and goes on from an index', async () => {
  await using api = await openApi()
  const token = await api.tokenFor(...accessRoles)
  await api.ask('PUT', '/v1/jobs/web', { token, body: { spec: testJob({ name: 'web' }) } })
  const watching = await fetch(`${api.url}/v1/watch?tables=jobs`, { headers: { authorization: `Bearer ${token}` } })
  assert.ok(watching.body)
  let text = ''
  const decoder = new TextDecoder()
  for await (const chunk of watching.body) {
    text += decoder.decode(chunk)
    if (text.includes('snapshot-end') && !text.includes('"name":"api"')) {
      await api.ask('PUT', '/v1/jobs/api', { token, body: { spec: testJob({ name: 'api' }) } })
    }
    if (text.includes('event: change')) break
  }
  assert.match(
    text,
    /event: snapshot-row\ndata: .*"name":"web"[\s\S]*event: snapshot-end[\s\S]*event: change\ndata: .*"name":"api"/,
  )
  const future = await api.ask('GET', '/v1/watch?from=99999', { token })
  assert.equal(future.status, 400)
})

test('secrets of a spec are not shown, and a spec that was shown can be sent back', async () => {
  await using api = await openApi()
  const token = await api.tokenFor(...accessRoles)
  const spec = testJob({
    name: 'web',
    tasks: {
      main: { driver: 'container', image: 'private/app', credentials: { username: 'me', password: 'hunter2' } },
    },
  })
  await api.ask('PUT', '/v1/jobs/web', { token, body: { spec } })
  const { value } = await api.ask('GET', '/v1/jobs/web', { token })
  assert.ok(!JSON.stringify(value).includes('hunter2'))
  const again = await api.ask('PUT', '/v1/jobs/web', { token, body: { spec: (value as { spec: unknown }).spec } })
  assert.equal((again.value as { changed: boolean }).changed, false)
})

async function upgradeStatus(url: string, token?: string): Promise<number> {
  const socket = new WebSocket(
    url.replace('http', 'ws'),
    token === undefined ? {} : { headers: { authorization: `Bearer ${token}` } },
  )
  const [, response] = (await once(socket, 'unexpected-response')) as [unknown, { statusCode: number }]
  socket.on('error', () => {})
  socket.terminate()
  return response.statusCode
}
