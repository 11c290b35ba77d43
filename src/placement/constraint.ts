import semver from 'semver'
import type { Constraint } from '../model/constraint.ts'
import type { JobSpec } from '../model/job.ts'
import type { Node } from '../model/node.ts'
import { parseSize } from '../model/units.ts'

/** The first of the job's constraints that does not hold for the node, or undefined. */
export function brokenConstraint(spec: JobSpec, node: Node): Constraint | undefined {
  for (const constraint of spec.constraints) if (!holds(constraint, node)) return constraint
  return undefined
}

/** Does the condition hold for the node? Where the subject is absent only `!=`, `not in` and `missing` do. */
export function holds(constraint: Constraint, node: Node): boolean {
  const subject = subjectOf(constraint.subject, node)
  const absent = constraint.operator === 'missing' || constraint.operator === '!=' || constraint.operator === 'not in'
  return subject === undefined ? absent : testOf(constraint)(subject)
}

/** What the node says of the subject; undefined when it has no such thing. */
export function subjectOf(subject: string, node: Node): string | undefined {
  const { facts } = node
  if (subject === 'node') return node.name
  if (subject.startsWith('label.')) {
    const name = subject.slice(6)
    return own(node.labels, name) ?? own(node.facts?.labels ?? {}, name)
  }
  if (!facts) return undefined
  if (subject === 'os' || subject === 'arch' || subject === 'hostname') return facts[subject]
  if (subject === 'cores' || subject === 'memory') return String(facts[subject])
  if (subject.startsWith('attr.')) return attributeOf(subject.slice(5), node)
  if (!subject.startsWith('driver.')) return undefined
  const driver = own(facts.drivers, subject.slice(7))
  return driver && (driver.healthy ? 'healthy' : 'unhealthy')
}

/** `attr.kernel` is the node's own; `attr.container.runtime` and `attr.container.version` are a driver's. */
function attributeOf(name: string, { facts }: Node): string | undefined {
  if (!facts) return undefined
  const plain = own(facts.attributes, name)
  if (plain !== undefined) return plain
  const dot = name.indexOf('.')
  const driver = dot < 0 ? undefined : own(facts.drivers, name.slice(0, dot))
  if (!driver) return undefined
  const key = name.slice(dot + 1)
  return own(driver.attributes, key) ?? (key === 'version' ? driver.version : undefined)
}

function own<T>(record: Readonly<Record<string, T>>, key: string): T | undefined {
  return Object.hasOwn(record, key) ? record[key] : undefined
}

type Test = (subject: string) => boolean

const tests = new WeakMap<Constraint, Test>()

/** Patterns, ranges and sets are worked out once per constraint, not once per node. */
function testOf(constraint: Constraint): Test {
  const known = tests.get(constraint)
  if (known) return known
  const test = makeTest(constraint)
  tests.set(constraint, test)
  return test
}

function makeTest({ operator, values }: Constraint): Test {
  const value = values[0] ?? ''
  const set = new Set(values)
  switch (operator) {
    case 'exists':
      return () => true
    case 'missing':
      return () => false
    case '==':
      return (subject) => equal(subject, value)
    case '!=':
      return (subject) => !equal(subject, value)
    case '<':
      return (subject) => compare(subject, value) < 0
    case '<=':
      return (subject) => compare(subject, value) <= 0
    case '>':
      return (subject) => compare(subject, value) > 0
    case '>=':
      return (subject) => compare(subject, value) >= 0
    case '=~':
      return matching(value)
    case 'in':
      return (subject) => set.has(subject)
    case 'not in':
      return (subject) => !set.has(subject)
    case 'contains':
      return (subject) => set.isSubsetOf(members(subject))
    case 'contains any':
      return (subject) => !set.isDisjointFrom(members(subject))
    case 'version':
      return inRange(values.join(' '))
    default:
      operator satisfies never
      return () => false
  }
}

/** As text, or as numbers: `memory == 16GiB`. */
function equal(subject: string, value: string): boolean {
  return subject === value || compare(subject, value) === 0
}

/** As numbers where both are numbers or sizes, else by the order of their characters. */
function compare(subject: string, value: string): number {
  const left = amount(subject)
  const right = amount(value)
  if (left !== undefined && right !== undefined) return left - right
  return subject < value ? -1 : subject > value ? 1 : 0
}

function amount(text: string): number | undefined {
  const number = text.trim() === '' ? Number.NaN : Number(text)
  return Number.isFinite(number) ? number : parseSize(text)
}

/** A pattern that is none was refused when the job was applied; should one come by, it matches nothing. */
function matching(pattern: string): Test {
  try {
    const expression = new RegExp(pattern)
    return (subject) => expression.test(subject)
  } catch {
    return () => false
  }
}

function members(subject: string): Set<string> {
  return new Set(subject.split(',').map((member) => member.trim()))
}

/** Versions are read loosely: `5.10.0-27-amd64` counts as 5.10.0. */
function inRange(text: string): Test {
  const range = semver.validRange(text.replaceAll(',', ' '), { loose: true })
  if (range === null) return () => false
  return (subject) => {
    const version = semver.coerce(subject)
    return version !== null && semver.satisfies(version, range)
  }
}
