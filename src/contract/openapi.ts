import { z } from 'zod'
import { faultCodes } from '../model/fault.ts'
import { ExecRequest } from './allocation.ts'
import { PublicBuildLine } from './build.ts'
import type { Endpoint } from './endpoint.ts'
import { endpoints } from './endpoints.ts'
import { CanonicalSpec } from './job.ts'
import { Problem } from './problem.ts'
import { SandboxAttachRequest, SandboxExecRequest } from './sandbox.ts'
import { watchedFile } from './sandbox-guest.ts'
import { SnapshotEnd, SnapshotRow, WatchChange } from './watch.ts'

type Json = Record<string, unknown>

/**
 * The contract as an OpenAPI 3.1 document. Schemas with an id become components; what differs between asking and
 * answering, because defaults are filled in between, is written out where it is used.
 */
export function openApiDocument({ version }: { version: string }): Json {
  const components: Json = {}
  const paths: Record<string, Json> = {}
  for (const [name, endpoint] of Object.entries<Endpoint>(endpoints)) {
    const path = endpoint.path.replace(/:(\w+)/g, '{$1}')
    const item = paths[path] ?? {}
    item[endpoint.method.toLowerCase()] = operation(name, endpoint, components)
    paths[path] = item
  }
  for (const schema of [SnapshotRow, SnapshotEnd, WatchChange]) convert(schema, 'output', components)
  convert(ExecRequest, 'input', components)
  convert(SandboxExecRequest, 'input', components)
  convert(SandboxAttachRequest, 'input', components)
  for (const schema of [PublicBuildLine, watchedFile]) convert(schema, 'output', components)
  return {
    openapi: '3.1.0',
    info: {
      title: 'Tutti',
      version,
      description:
        'Runs things on places. Times are milliseconds since 1970-01-01 UTC, sizes bytes, durations milliseconds.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/' }],
    security: [{ token: [] }],
    paths,
    components: {
      schemas: Object.fromEntries(Object.entries(components).sort(([a], [b]) => (a < b ? -1 : 1))),
      securitySchemes: {
        token: { type: 'http', scheme: 'bearer', description: 'The token of a service account: `tutti token create`.' },
        agent: { type: 'mutualTLS', description: 'The certificate of a node.' },
      },
    },
  }
}

function operation(name: string, endpoint: Endpoint, components: Json): Json {
  const { role, summary, params, query, body, upload } = endpoint
  const parameters = [...parametersOf('path', params, components), ...parametersOf('query', query, components)]
  return {
    operationId: name,
    summary,
    ...(role === 'public'
      ? {}
      : { description: `Needs ${role === 'agent' ? 'the certificate of a node' : `the role \`${role}\``}.` }),
    tags: [endpoint.path.split('/')[2] ?? 'other'],
    security: role === 'public' ? [] : role === 'agent' ? [{ agent: [] }] : [{ token: [] }],
    ...(parameters.length > 0 ? { parameters } : {}),
    ...(body
      ? {
          requestBody: {
            required: true,
            content: { 'application/json': { schema: convert(body, 'input', components) } },
          },
        }
      : {}),
    ...(upload ? { requestBody: { required: true, content: { 'application/octet-stream': { schema: {} } } } } : {}),
    responses: { ...success(endpoint, components), default: problem(endpoint, components) },
  }
}

function parametersOf(place: 'path' | 'query', schema: z.ZodObject | undefined, components: Json): Json[] {
  return Object.entries<z.ZodType>(schema?.shape ?? {}).map(([name, field]) => {
    // Text becomes what it means: a parameter is described by what comes out, and is needed if nothing may be given.
    const { description, ...described } = convert(field, 'output', components)
    const list = described.type === 'array' ? { style: 'form', explode: false } : {}
    return {
      name,
      in: place,
      required: place === 'path' || !field.safeParse(undefined).success,
      ...(description === undefined ? {} : { description }),
      schema: described,
      ...list,
    }
  })
}

function success({ answer, stream, says }: Endpoint, components: Json): Json {
  if (stream === 'websocket') return { 101: { description: 'A WebSocket.' } }
  if (stream === 'events') {
    const description =
      says ??
      'Events named snapshot-row (SnapshotRow), snapshot-end (SnapshotEnd), change (WatchChange), fault (Problem).'
    return { 200: { description, content: { 'text/event-stream': { schema: { type: 'string' } } } } }
  }
  if (stream === 'octets') {
    return {
      200: {
        description: 'A stream.',
        content: { 'application/octet-stream': { schema: {} }, 'text/plain': { schema: { type: 'string' } } },
      },
    }
  }
  if (!answer) return { 204: { description: 'Done.' } }
  return {
    200: { description: 'Done.', content: { 'application/json': { schema: convert(answer, 'output', components) } } },
  }
}

function problem({ faults, role }: Endpoint, components: Json): Json {
  const always = ['invalid', ...(role === 'public' ? [] : ['unauthenticated', 'denied']), 'unavailable', 'internal']
  const codes = faultCodes.filter((code) => always.includes(code) || faults.includes(code))
  return {
    description: `Why it failed: ${codes.join(', ')}.`,
    content: { 'application/problem+json': { schema: convert(Problem, 'output', components) } },
  }
}

/** The JSON schema of a value; what has an id is put among the components and referred to. */
function convert(schema: z.ZodType, io: 'input' | 'output', components: Json): Json {
  const {
    $schema: _dialect,
    $defs = {},
    ...root
  } = z.toJSONSchema(schema, {
    io,
    unrepresentable: 'any',
    override: ({ zodSchema, jsonSchema }) => tidy(zodSchema as z.core.$ZodTypes, jsonSchema as Json, io),
  }) as Json & { $defs?: Record<string, Json> }
  for (const [id, definition] of Object.entries($defs)) components[id] ??= toComponent(definition)
  const { id } = schema.meta() ?? {}
  if (id === undefined) return toComponent(root)
  components[id] ??= toComponent(root)
  return { $ref: `#/components/schemas/${id}` }
}

/** Said by the schema language and of no use to a reader: transforms that look like nothing, and the bounds of doubles. */
function tidy(schema: z.core.$ZodTypes, json: Json, io: 'input' | 'output'): void {
  if (json.maximum === Number.MAX_SAFE_INTEGER) delete json.maximum
  if (json.minimum === Number.MIN_SAFE_INTEGER) delete json.minimum
  const variants = json.oneOf ?? json.anyOf
  if (schema._zod.def.type === 'union' && 'discriminator' in schema._zod.def && Array.isArray(variants)) {
    json.discriminator = { propertyName: schema._zod.def.discriminator }
  }
  // What is answered may gain fields in a later version.
  if (io === 'output' && json.additionalProperties === false) delete json.additionalProperties
  // A union of a value and of text that is turned into it comes out as the value.
  if (io === 'output' && Array.isArray(json.anyOf)) {
    const said = json.anyOf.filter((each: Json) => Object.keys(each).length > 0)
    if (said.length === 1 && said.length < json.anyOf.length) {
      delete json.anyOf
      Object.assign(json, said[0])
    }
  }
  if ((schema as unknown) === CanonicalSpec) {
    json.type = 'object'
    json.required = ['name', 'tasks']
  }
}

/** References lead to the components of the document rather than into the schema. */
function toComponent(value: Json): Json {
  const text = JSON.stringify(value).replaceAll('"#/$defs/', '"#/components/schemas/')
  const { id: _id, $schema: _dialect, ...component } = JSON.parse(text) as Json
  return component
}
