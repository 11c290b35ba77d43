import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import type { Endpoint } from './endpoint.ts'
import { endpoints } from './endpoints.ts'
import { openApiDocument } from './openapi.ts'

type Json = Record<string, unknown>
interface Operation {
  operationId: string
  parameters?: { name: string; in: string; required: boolean; schema: Json }[]
  requestBody?: { content: Record<string, { schema: Json }> }
  responses: Record<string, { content?: Record<string, { schema: Json }> }>
}

const document = openApiDocument({ version: '1.2.3' }) as {
  openapi: string
  paths: Record<string, Record<string, Operation>>
  components: { schemas: Record<string, Json>; securitySchemes: Json }
}
const operations = Object.entries(document.paths).flatMap(([path, item]) =>
  Object.entries(item).map(([method, operation]) => ({ path, method, operation })),
)

test('the checked-in document is what the contract says; "node tools/openapi.ts" writes it', async () => {
  const { version } = JSON.parse(await readFile('package.json', 'utf8'))
  const kept = JSON.parse(await readFile('docs/openapi.json', 'utf8'))
  assert.deepEqual(kept, JSON.parse(JSON.stringify(openApiDocument({ version }))))
})

test('every endpoint is there once, under its name', () => {
  assert.equal(document.openapi, '3.1.0')
  assert.deepEqual(operations.map(({ operation }) => operation.operationId).sort(), Object.keys(endpoints).sort())
  for (const { path, method, operation } of operations) {
    const stated: Endpoint = endpoints[operation.operationId as keyof typeof endpoints]
    assert.equal(`${stated.method.toLowerCase()} ${stated.path.replace(/:(\w+)/g, '{$1}')}`, `${method} ${path}`)
  }
})

test('every parameter of a path is described and required', () => {
  for (const { path, operation } of operations) {
    const inPath = [...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1])
    const described = (operation.parameters ?? []).filter((parameter) => parameter.in === 'path')
    assert.deepEqual(described.map(({ name }) => name).sort(), inPath.sort(), path)
    assert.ok(described.every(({ required }) => required))
  }
})

test('every reference leads somewhere, and every component is used', () => {
  const text = JSON.stringify(document)
  const references = [...text.matchAll(/"\$ref":"([^"]+)"/g)].map((match) => match[1] ?? '')
  assert.ok(references.length > 30)
  for (const reference of references) {
    const name = /^#\/components\/schemas\/(\w+)$/.exec(reference)?.[1]
    assert.ok(name !== undefined && name in document.components.schemas, reference)
  }
  assert.ok(!text.includes('$defs'), 'nothing leads into a schema of its own')
  const spoken = [
    'SnapshotRow',
    'SnapshotEnd',
    'WatchChange',
    'ExecRequest',
    'SandboxAttachRequest',
    'SandboxExecRequest',
    'BuildLine',
    'FileEvent',
  ]
  for (const name of Object.keys(document.components.schemas)) {
    assert.ok(spoken.includes(name) || references.some((reference) => reference.endsWith(`/${name}`)), name)
  }
})

test('a query parameter is described as what it means, and only the needed ones are required', () => {
  const logs = operations.find(({ operation }) => operation.operationId === 'allocationLogs')?.operation
  const byName = Object.fromEntries((logs?.parameters ?? []).map((parameter) => [parameter.name, parameter]))
  assert.equal(byName.follow?.schema.type, 'boolean')
  assert.equal(byName.follow?.required, false)
  assert.equal(byName.tail?.schema.type, 'integer')
  assert.equal(byName.tail?.schema.maximum, 1_000_000)
})

test('what may be left out of a spec is not required when asking', () => {
  const spec = document.components.schemas.JobSpec as { required: string[]; properties: Json }
  assert.deepEqual(spec.required.sort(), ['name', 'tasks'])
  const text = JSON.stringify(spec)
  assert.match(text, /"discriminator":\{"propertyName":"type"\}/)
  assert.doesNotMatch(text, /9007199254740991/)
})

test('no answer has a place for a hash, a key or a password', () => {
  for (const { operation } of operations) {
    const text = JSON.stringify(operation.responses)
    assert.doesNotMatch(text, /hash|caKey|password|keyFingerprint/, operation.operationId)
  }
  const { Token, JoinToken, Node, Allocation, Job } = document.components.schemas
  assert.doesNotMatch(
    JSON.stringify([Token, JoinToken, Node, Allocation, Job]),
    /hash|caKey|password|[kK]eyFingerprint/,
  )
})
