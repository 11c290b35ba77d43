import { text } from 'node:stream/consumers'
import type { GuestChannel } from '../../guest/channel.ts'
import { Fault } from '../../model/fault.ts'

export interface Owner {
  uid: number
  gid: number
}

/** `user`, `user:group` or numbers, looked up in the guest's own files as Docker does. Without a group, the user's number. */
export async function findOwner(channel: GuestChannel, owner: string, signal: AbortSignal): Promise<Owner> {
  const [user = '', group] = owner.split(':')
  const read = async (path: string) =>
    text(await channel.files.read(path, { signal })).catch((error: unknown) => {
      if (error instanceof Fault && error.code === 'not_found') return ''
      throw error
    })
  const lookUp = async (name: string, file: string, what: string) => {
    if (/^\d+$/.test(name)) return Number(name)
    const contents = await read(file).catch(() => '')
    const id = contents
      .split('\n')
      .map((line) => line.split(':'))
      .find(([each]) => each === name)?.[2]
    if (id === undefined) throw new Fault('invalid', `--chown=${owner}: there is no ${what} "${name}" in the image`)
    return Number(id)
  }
  const uid = await lookUp(user, '/etc/passwd', 'user')
  return { uid, gid: group === undefined ? uid : await lookUp(group, '/etc/group', 'group') }
}
