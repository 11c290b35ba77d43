import { Fault } from '../model/fault.ts'

/**
 * Freezes a row with all that is in it, and refuses what JSON would silently change (dates, maps, NaN), because such a
 * row would be another one after a restart. Too dear for every row of a large store: used in debug mode.
 */
export function freezePlain<T>(value: T, path: string): T {
  if (value === null || value === undefined || typeof value === 'string' || typeof value === 'boolean') return value
  if (typeof value === 'number') return Number.isFinite(value) ? value : notPlain(path, String(value))
  if (typeof value !== 'object') return notPlain(path, `a ${typeof value}`)
  const prototype = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== Array.prototype && prototype !== null) {
    return notPlain(path, `a ${prototype.constructor?.name ?? 'class instance'}`)
  }
  if (Object.isFrozen(value) && known.has(value)) return value
  for (const [key, inner] of Object.entries(value)) freezePlain(inner, `${path}.${key}`)
  known.add(value)
  return Object.freeze(value)
}

/** What was frozen here, all the way down; rows share parts with those before them. */
const known = new WeakSet<object>()

function notPlain(path: string, what: string): never {
  throw new Fault('internal', `a stored row must be plain JSON data, but ${path} is ${what}`)
}
