import { existsSync, lstatSync, readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { Fault } from '../../../model/fault.ts'

export interface User {
  uid: number
  gid: number
  additionalGids: number[]
  home: string
}

/** Finds "name", "uid", "name:group" or "uid:gid" in the passwd and group files under a container's root. */
export function findUser(text: string, rootfs: string): User {
  const [who = '', group] = (text || '0').split(':')
  const users = entries(rootfs, '/etc/passwd')
  const groups = entries(rootfs, '/etc/group')
  const entry = users.find(([name]) => name === who) ?? users.find(([, , uid]) => uid === who)
  const uid = number(entry?.[2]) ?? number(who)
  if (uid === undefined)
    throw new Fault('invalid', `the image has no user "${who}"; give a number or a name of its own`)
  const asked =
    group === undefined ? undefined : (number(groups.find(([name]) => name === group)?.[2]) ?? number(group))
  if (group !== undefined && asked === undefined)
    throw new Fault('invalid', `the image has no group "${group}"; give a number or a name of its own`)
  const gid = asked ?? number(entry?.[3]) ?? 0
  const member = groups.filter(([, , , members]) => entry && members?.split(',').includes(entry[0] ?? ''))
  const additionalGids = group === undefined ? member.flatMap(([, , id]) => number(id) ?? []) : []
  return { uid, gid, additionalGids, home: entry?.[5] || '/' }
}

function entries(rootfs: string, path: string): string[][] {
  const file = insideOf(rootfs, path)
  if (file === undefined || !existsSync(file) || lstatSync(file).size > 1 << 20) return []
  return readFileSync(file, 'utf8')
    .split('\n')
    .map((line) => line.split(':'))
}

function number(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,10}$/.test(text) ? Number(text) : undefined
}

/** Follows links as the container would: none leads out of its root. Undefined when they go in circles. */
function insideOf(rootfs: string, path: string): string | undefined {
  const todo = path.split('/')
  let at: string[] = []
  for (let links = 0; todo.length > 0; ) {
    const part = todo.shift()
    if (part === undefined || part === '' || part === '.') continue
    if (part === '..') {
      at.pop()
      continue
    }
    const here = join(rootfs, ...at, part)
    if (!lstatSync(here, { throwIfNoEntry: false })?.isSymbolicLink()) {
      at.push(part)
      continue
    }
    links += 1
    if (links > 40) return undefined
    const target = readlinkSync(here)
    if (target.startsWith('/')) at = []
    todo.unshift(...target.split('/'))
  }
  return join(rootfs, ...at)
}
