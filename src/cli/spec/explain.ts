import { z } from 'zod'
import { closest } from '../../kit/nearest.ts'
import { JobSpec } from '../../model/job.ts'

/** One mistake of a spec in words a person can act on. `at` says what of the path to point to. */
export interface Explained {
  path: PropertyKey[]
  /** Where to point: at the key of the path, at its value, or at what should contain it. */
  at: 'key' | 'value' | 'parent'
  message: string
}

/** What a file is to hold. */
export interface Subject {
  schema: z.ZodType
  /** `a job` */
  name: string
  /** What people who come from elsewhere write, and what it is called here. */
  synonyms: Readonly<Record<string, string>>
}

/** What zod found in `value`, said for people: the offending words, and what would be right. */
export function explainIssues(issues: readonly z.core.$ZodIssue[], value: unknown, about: Subject = jobs): Explained[] {
  return issues.flatMap((issue) => explain(issue, [...issue.path], value, about))
}

function explain(issue: z.core.$ZodIssue, path: PropertyKey[], root: unknown, about: Subject): Explained[] {
  const value = valueAt(root, path)
  const subject = nameOf(path, about)
  switch (issue.code) {
    case 'unrecognized_keys':
      return issue.keys.map((key) => ({ path: [...path, key], at: 'key', message: unknownKey(key, path, root, about) }))
    case 'invalid_key':
      return [{ path, at: 'key', message: `${quote(path.at(-1))} ${issue.issues[0]?.message ?? 'is not a valid key'}` }]
    case 'invalid_union': {
      const { options } = issue as { options?: unknown[] }
      if (issue.discriminator !== undefined && options) return [choice(path, value, options.map(String), about)]
      return explainUnion(issue, path, root, about)
    }
    case 'invalid_value':
      return [choice(path, value, issue.values.map(String), about)]
    case 'invalid_type':
      return [wrongType(path, value, [issue.expected], about)]
    case 'too_small':
    case 'too_big':
      return [{ path, at: 'value', message: `${subject} ${bound(issue)}, not ${measured(issue.origin, value)}` }]
    default:
      return [{ path, at: value === undefined ? 'parent' : 'value', message: phrase(issue.message, subject, value) }]
  }
}

/** Of several forms, the one that was meant is the one that fails latest; if none gets anywhere, all are named. */
function explainUnion(
  issue: z.core.$ZodIssueInvalidUnion,
  path: PropertyKey[],
  root: unknown,
  about: Subject,
): Explained[] {
  const atOnce = (branch: readonly z.core.$ZodIssue[]) =>
    branch.some(({ code, path: inner }) => inner.length === 0 && (code === 'invalid_type' || code === 'invalid_value'))
  const meant = issue.errors.find((branch) => !atOnce(branch))
  if (meant) return meant.flatMap((inner) => explain(inner, [...path, ...inner.path], root, about))
  const forms = issue.errors.flatMap((branch) =>
    branch.flatMap((inner) => {
      if (inner.code === 'invalid_type') return [inner.expected]
      return inner.code === 'invalid_value' ? inner.values.map((each) => `"${String(each)}"`) : []
    }),
  )
  return [wrongType(path, valueAt(root, path), forms, about)]
}

function choice(path: PropertyKey[], value: unknown, allowed: readonly string[], about: Subject): Explained {
  const subject = nameOf(path, about)
  const all = allowed.length === 1 ? `"${allowed[0]}"` : `one of ${allowed.join(', ')}`
  if (value === undefined) return { path, at: 'parent', message: `${subject} is missing; it is ${all}` }
  const near = typeof value === 'string' ? closest(value, allowed) : undefined
  const hint = near === undefined ? '' : `; did you mean "${near}"?`
  return { path, at: 'value', message: `${subject} must be ${all}, not ${quote(value)}${hint}` }
}

const typeNames: Readonly<Record<string, string>> = {
  string: 'text',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  array: 'a list',
  object: 'a mapping of keys to values',
  record: 'a mapping of names to values',
}

function wrongType(path: PropertyKey[], value: unknown, expected: readonly string[], about: Subject): Explained {
  const names = [...new Set(expected.map((type) => typeNames[type] ?? type))]
  const wanted =
    names.length > 1 ? `${names.slice(0, -1).join(', ')} or ${names.at(-1)}` : (names[0] ?? 'something else')
  const subject = nameOf(path, about)
  if (value === undefined) return { path, at: 'parent', message: `${subject} is missing; it is ${wanted}` }
  const got = value === null ? 'nothing' : quote(value)
  return { path, at: value === null ? 'key' : 'value', message: `${subject} must be ${wanted}, not ${got}` }
}

function bound(issue: z.core.$ZodIssueTooSmall | z.core.$ZodIssueTooBig): string {
  const { origin } = issue
  const limit = issue.code === 'too_small' ? issue.minimum : issue.maximum
  const word = issue.code === 'too_small' ? 'at least' : 'at most'
  if (origin === 'string')
    return limit === 1 && word === 'at least' ? 'must not be empty' : `must be ${word} ${limit} characters long`
  if (origin === 'array' || origin === 'set')
    return `must have ${word} ${limit} ${Number(limit) === 1 ? 'entry' : 'entries'}`
  return `must be ${issue.inclusive === false ? (word === 'at least' ? 'more than' : 'less than') : word} ${limit}`
}

function measured(origin: string, value: unknown): string {
  if (origin === 'string') return String(typeof value === 'string' ? value.length : quote(value))
  return Array.isArray(value) ? String(value.length) : quote(value)
}

/** Our schemas' own messages: whole sentences stay, `must be …` gets its subject and what was found. */
function phrase(message: string, subject: string, value: unknown): string {
  if (message.startsWith('must ')) return `${subject} ${message}, not ${quote(value)}`
  if (message.startsWith('is ')) return `${subject} ${message}`
  if (message.startsWith('Invalid')) return `${subject} is not valid: ${quote(value)}`
  return message
}

const jobSynonyms: Readonly<Record<string, string>> = {
  job: 'name',
  id: 'name',
  replicas: 'count',
  instances: 'count',
  copies: 'count',
  scale: 'count',
  kind: 'type',
  environment: 'env',
  cmd: 'command',
  entrypoint: 'command',
  ram: 'memory',
  mem: 'memory',
  healthcheck: 'checks',
  healthchecks: 'checks',
  check: 'checks',
  artifact: 'artifacts',
  template: 'templates',
  volume_mounts: 'mounts',
  volumeMounts: 'mounts',
  working_dir: 'cwd',
  workdir: 'cwd',
  constraint: 'constraints',
  task: 'tasks',
  containers: 'tasks',
  services: 'tasks',
  port: 'ports',
  kill_signal: 'kill',
  stop_grace_period: 'kill',
}

const jobs: Subject = { schema: JobSpec, name: 'a job', synonyms: jobSynonyms }

function unknownKey(key: string, path: PropertyKey[], root: unknown, about: Subject): string {
  const known = knownKeys(path, root, about)
  const where = `of ${nameOf(path, about)}`
  const start = `"${key}" is not a key ${where}`
  const synonym = Object.hasOwn(about.synonyms, key) ? about.synonyms[key] : undefined
  const near = synonym !== undefined && known.includes(synonym) ? synonym : closest(key, known)
  if (near !== undefined) return `${start}; did you mean "${near}"?`
  const home = about === jobs ? homeOf(key, path) : undefined
  if (home !== undefined) return `${start}; it belongs under ${home}`
  return `${start}; the keys are ${known.join(', ')}`
}

/** Where a key that stands in the wrong place belongs. */
function homeOf(key: string, path: PropertyKey[]): string | undefined {
  const inTask = path[0] === 'tasks' && path.length === 2
  if (!inTask && path.length === 0 && knownKeys(['tasks', 'x'], undefined, jobs).includes(key))
    return '"tasks", in a task'
  if (knownKeys(['tasks', 'x', 'resources'], undefined, jobs).includes(key))
    return inTask ? '"resources"' : '"resources" of a task'
  if (inTask && knownKeys([], undefined, jobs).includes(key)) return 'the job, beside "tasks"'
  return undefined
}

interface JsonSchema {
  properties?: Record<string, JsonSchema>
  additionalProperties?: JsonSchema | boolean
  items?: JsonSchema
  anyOf?: JsonSchema[]
  oneOf?: JsonSchema[]
  allOf?: JsonSchema[]
  $ref?: string
  $defs?: Record<string, JsonSchema>
  const?: unknown
}

const schemas = new WeakMap<Subject, JsonSchema>()

function schemaOf(about: Subject): JsonSchema {
  const known = schemas.get(about)
  if (known) return known
  const schema = z.toJSONSchema(about.schema, { io: 'input', unrepresentable: 'any' }) as JsonSchema
  schemas.set(about, schema)
  return schema
}

/** The keys that may stand at a path, read from the schema itself. */
function knownKeys(path: readonly PropertyKey[], root: unknown, about: Subject): string[] {
  const schema = schemaOf(about)
  const forms = (each: JsonSchema) => formsOf(each, schema)
  let at: JsonSchema[] = [schema]
  let value = root
  for (const step of path) {
    at = at.flatMap(forms).flatMap((form) => {
      const next =
        typeof step === 'number' ? form.items : (form.properties?.[String(step)] ?? form.additionalProperties)
      return typeof next === 'object' ? [next] : []
    })
    value = valueAt(value, [step])
  }
  const objects = at.flatMap(forms).filter(({ properties }) => properties !== undefined)
  // Of several variants, those that the value says it is.
  const type = valueAt(value, ['type'])
  const fitting = objects.filter(
    ({ properties }) => properties?.type?.const === undefined || properties.type.const === type,
  )
  const chosen = fitting.length > 0 ? fitting : objects
  return [...new Set(chosen.flatMap(({ properties }) => Object.keys(properties ?? {})))]
}

function formsOf(each: JsonSchema, schema: JsonSchema): JsonSchema[] {
  const named = each.$ref === undefined ? undefined : schema.$defs?.[each.$ref.replace('#/$defs/', '')]
  const several = [...(each.anyOf ?? []), ...(each.oneOf ?? []), ...(each.allOf ?? []), ...(named ? [named] : [])]
  return several.length > 0 ? [each, ...several.flatMap((form) => formsOf(form, schema))] : [each]
}

function valueAt(root: unknown, path: readonly PropertyKey[]): unknown {
  let value = root
  for (const step of path) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, step)) return undefined
    value = (value as Record<PropertyKey, unknown>)[step]
  }
  return value
}

/** The last name of a path, with its number in a list: `checks[1]`. */
function nameOf(path: readonly PropertyKey[], about: Subject): string {
  const last = path.at(-1)
  if (last === undefined) return about.name
  return typeof last === 'number'
    ? `${nameOf(path.slice(0, -1), about).replaceAll('"', '')}[${last}]`
    : `"${String(last)}"`
}

function quote(value: unknown): string {
  if (value === null) return 'nothing'
  if (Array.isArray(value)) return 'a list'
  if (typeof value === 'object') return 'a mapping'
  const text = String(value)
  const short = text.length > 60 ? `${text.slice(0, 60)}…` : text
  return typeof value === 'string' ? `"${short.replace(/\s+/g, ' ')}"` : short
}
