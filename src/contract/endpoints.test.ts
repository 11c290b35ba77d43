import assert from 'node:assert/strict'
import { test } from 'node:test'
import { accessRoles } from '../model/records.ts'
import type { Endpoint } from './endpoint.ts'
import { endpoints } from './endpoints.ts'

const table: Record<string, Endpoint> = endpoints

test('no two endpoints answer to the same method and path', () => {
  const seen = Object.values(table).map(({ method, path }) => `${method} ${path.replace(/:\w+/g, ':')}`)
  assert.deepEqual(seen, [...new Set(seen)])
})

test('only health, enrolment and the OpenAPI document are open to everybody', () => {
  const open = Object.values(table).filter(({ role }) => role === 'public')
  assert.deepEqual(open.map(({ path }) => path).sort(), ['/v1/enroll', '/v1/health', '/v1/openapi.json'])
  for (const { role } of Object.values(table)) assert.ok([...accessRoles, 'agent', 'public'].includes(role), role)
})

test('reading needs no role that allows writing, and writing does', () => {
  for (const [name, { method, path, role }] of Object.entries(table)) {
    const reads = method === 'GET' || path === '/v1/jobs/plan'
    if (role === 'public' || role === 'agent' || role === 'compute:connect') continue
    assert.equal(role.endsWith(':read'), reads, name)
  }
})

test('every parameter of a path has a schema, and is not also in the query', () => {
  for (const [name, { path, params, query }] of Object.entries(table)) {
    const inPath = [...path.matchAll(/:(\w+)/g)].map((match) => match[1]).sort()
    assert.deepEqual(Object.keys(params?.shape ?? {}).sort(), inPath, name)
    for (const key of Object.keys(query?.shape ?? {})) assert.ok(!inPath.includes(key), `${name}: ${key}`)
  }
})

test('an endpoint either answers a document or streams', () => {
  for (const [name, { answer, stream }] of Object.entries(table)) {
    assert.ok(answer === undefined || stream === undefined, name)
  }
})

test('a query means the same as text and as values', () => {
  const { query } = endpoints.allocationLogs
  assert.deepEqual(query.parse({ follow: 'true', tail: '10' }), query.parse({ follow: true, tail: 10 }))
  assert.equal(query.safeParse({ tail: '-1' }).success, false)
  assert.equal(query.safeParse({ tail: '1e9' }).success, false)
  assert.equal(query.safeParse({ follow: 'yes' }).success, false)
  assert.deepEqual(endpoints.watch.query.parse({ tables: 'jobs,events' }).tables, ['jobs', 'events'])
  assert.equal(endpoints.watch.query.safeParse({ tables: 'jobs,tokens' }).success, false)
})
