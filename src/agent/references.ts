import { Fault } from '../model/fault.ts'

/** What `${…}` can name: each full name, such as `port.http`, and its value. A function is asked only when needed. */
export type Known = ReadonlyMap<string, string | (() => string)>

/**
 * Replaces `${name}` in a text. `$${` stands for a literal `${`. A name that is not known is a Fault that says so and
 * names the nearest one that is. What is put in is not looked at again.
 */
export function replaceReferences(text: string, known: Known): string {
  if (!text.includes('${')) return text
  return text.replace(/\$\$\{|\$\{([^}]*)\}|\$\{/g, (match, name: string | undefined) => {
    if (match === '$${') return '${'
    if (name === undefined)
      throw new Fault('invalid', `a "\${" is not closed in "${short(text)}"; write "$\${" to mean it literally`)
    const value = known.get(name.trim())
    if (value !== undefined) return typeof value === 'function' ? value() : value
    throw unknownReference(name.trim(), known)
  })
}

/** The same through any plain value: texts, lists and records of them; keys stay. */
export function replaceIn<T>(value: T, known: Known): T
export function replaceIn(value: unknown, known: Known): unknown {
  if (typeof value === 'string') return replaceReferences(value, known)
  if (Array.isArray(value)) return value.map((item) => replaceIn(item, known))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, replaceIn(item, known)]))
}

function unknownReference(name: string, known: Known): Fault {
  const names = [...known.keys()]
  const nearest = names
    .map((candidate) => ({ candidate, far: distance(name, candidate) }))
    .sort((one, other) => one.far - other.far)[0]
  const family = names.filter((candidate) => candidate.startsWith(`${name.split('.')[0]}.`))
  const hint =
    nearest && nearest.far <= Math.max(2, name.length / 3)
      ? `did you mean "\${${nearest.candidate}}"?`
      : `known are ${(family.length > 0 ? family : names).slice(0, 12).join(', ')}`
  return new Fault('invalid', `"\${${short(name)}}" is not known here; ${hint}`)
}

/** Levenshtein's, on short names. */
function distance(one: string, other: string): number {
  let row = Array.from({ length: other.length + 1 }, (_, index) => index)
  for (let i = 1; i <= one.length && i <= 100; i++) {
    const next = [i]
    for (let j = 1; j <= other.length; j++) {
      const change = (row[j - 1] ?? 0) + (one[i - 1] === other[j - 1] ? 0 : 1)
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[other.length] ?? 0
}

function short(text: string): string {
  return text.length > 80 ? `${text.slice(0, 77)}…` : text
}
