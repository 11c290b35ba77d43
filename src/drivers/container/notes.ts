import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'

/**
 * What a driver knows of a task from `prepare` to `remove`, kept over restarts: the agent gives only the id when it
 * wants a task removed, and an image that a task is about to use must not be evicted.
 */
export class TaskNotes {
  readonly #directory: string
  /** Ends the claim of a task on its image; tasks from before the agent's start have only their note. */
  readonly #claims = new Map<string, () => void>()

  #writes = 0

  constructor(directory: string) {
    this.#directory = directory
  }

  /** Takes over the claim. */
  async write(id: string, note: TaskNote, release: () => void): Promise<void> {
    this.#claims.get(id)?.()
    this.#claims.set(id, release)
    await mkdir(this.#directory, { recursive: true, mode: 0o700 })
    // A name of its own: the same task may be prepared twice at once.
    const fresh = `${this.#file(id)}.${++this.#writes}.new`
    await writeFile(fresh, JSON.stringify(note))
    await rename(fresh, this.#file(id))
  }

  async read(id: string): Promise<TaskNote | undefined> {
    try {
      return TaskNote.parse(JSON.parse(await readFile(this.#file(id), 'utf8')))
    } catch {
      return undefined
    }
  }

  async imagesInUse(): Promise<Set<string>> {
    const inUse = new Set<string>()
    for (const file of await readdir(this.#directory).catch(() => [])) {
      const note = file.endsWith('.json') ? await this.read(file.slice(0, -'.json'.length)) : undefined
      if (note) inUse.add(note.image)
    }
    return inUse
  }

  async remove(id: string): Promise<void> {
    await rm(this.#file(id), { force: true })
    this.#claims.get(id)?.()
    this.#claims.delete(id)
  }

  #file(id: string): string {
    return join(this.#directory, `${id}.json`)
  }
}

const TaskNote = z.object({
  stateDirectory: z.string(),
  /** As the spec has it. */
  name: z.string(),
  /** The digest it stood for when the task was prepared. */
  image: z.string(),
})
export type TaskNote = z.infer<typeof TaskNote>
