import { z } from 'zod'
import { Fault } from '../../model/fault.ts'

/** Names of objects: paths of lower-case letters, digits, dashes and dots, in which no part begins with a dot. */
export const ObjectKey = z
  .string()
  .max(500)
  .regex(/^[a-z0-9-][a-z0-9.-]*(\/[a-z0-9-][a-z0-9.-]*)*$/)

export const packKey = (name: string): string => `packs/${name}`
export const buildKey = (id: string): string => `builds/${id}.json`

/** The key of a reference; a name that cannot be one is refused. */
export function referenceKey(name: string): string {
  const key = `refs/${name}.json`
  if (!ObjectKey.safeParse(key).success)
    throw new Fault(
      'invalid',
      `"${name}" cannot be a reference: use lower-case letters, digits, dashes, dots and slashes`,
    )
  return key
}

export function checkKey(key: string): string {
  if (!ObjectKey.safeParse(key).success) throw new Fault('invalid', `"${key}" cannot be the name of an object`)
  return key
}
