import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { Egress } from '../../model/sandbox.ts'

/**
 * Which sandbox has which slot and what it may reach, a file each: written before anything is made and removed after all of
 * it is gone, so that the next agent finds whatever this one leaves.
 */
export const Note = z.strictObject({
  /** Safe as a file name, and in the text of a command. */
  id: z.string().regex(/^[0-9a-z]{1,32}$/),
  slot: z.int().min(1).max(10_000),
  egress: Egress,
  /** The process that carries its packets, where there is one: its id, and when it began as the kernel counts. */
  carrier: z.strictObject({ pid: z.int().min(1), began: z.string().max(30) }).optional(),
})
export type Note = z.infer<typeof Note>

export interface Notes {
  readonly all: ReadonlyMap<string, Note>
  write(note: Note): Promise<void>
  remove(id: string): Promise<void>
}

export async function openNotes(directory: string): Promise<Notes> {
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const all = new Map<string, Note>()
  for (const name of await readdir(directory)) {
    const note = await read(join(directory, name))
    if (note === undefined || `${note.id}.json` !== name) await rm(join(directory, name), { force: true })
    else all.set(note.id, note)
  }
  const fileOf = (id: string) => join(directory, `${id}.json`)
  return {
    all,
    async write(note) {
      Note.parse(note)
      all.set(note.id, note)
      await writeFile(`${fileOf(note.id)}.new`, JSON.stringify(note), { mode: 0o600 })
      await rename(`${fileOf(note.id)}.new`, fileOf(note.id))
    },
    async remove(id) {
      await rm(fileOf(id), { force: true })
      all.delete(id)
    },
  }
}

async function read(file: string): Promise<Note | undefined> {
  try {
    return Note.parse(JSON.parse(await readFile(file, 'utf8')))
  } catch {
    return undefined
  }
}
