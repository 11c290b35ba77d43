import { mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { BuildId, SandboxId } from '../model/ids.ts'
import { Egress, sandboxPhases } from '../model/sandbox.ts'

/**
 * What the node knows of one sandbox, written down before each side effect, so that the agent after this one can finish
 * or undo what was begun. One file each, for its owner only: the environment may hold secrets, and on the node it is kept
 * here and nowhere else; it never enters a snapshot by our hand.
 */
export const SandboxRecord = z.strictObject({
  id: SandboxId,
  phase: z.enum(sandboxPhases),
  /** What it began from. */
  build: BuildId,
  /** The last state that is safe on disk, and where a resume goes on. */
  paused: BuildId.nullable(),
  /** The build that a pause under way is making. */
  pausing: BuildId.nullable(),
  /** The build whose memory image its VM maps; null when it was booted. */
  mapped: BuildId.nullable(),
  /** Names of its disk, memory and network: those of the sandbox, or of the pooled VM that it was given. */
  place: z.string().regex(/^[0-9a-z-]{1,64}$/),
  /** What the next connection to its guest agent opens with. */
  token: z.string().max(64),
  machineId: z.string().regex(/^[0-9a-f]{32}$/),
  hostname: z.string().max(63),
  env: z.record(z.string(), z.string()),
  user: z.string().max(64),
  cwd: z.string().max(4096),
  egress: Egress,
  reason: z.string().max(2000).optional(),
})
export type SandboxRecord = z.infer<typeof SandboxRecord>

/** The files of all records in a directory of their own. */
export class Records {
  readonly #directory: string

  private constructor(directory: string) {
    this.#directory = directory
  }

  static async open(directory: string): Promise<Records> {
    await mkdir(directory, { recursive: true, mode: 0o700 })
    return new Records(directory)
  }

  /** All that can be read. One that cannot is set aside: its VM is then nobody's, and is ended as such. */
  async load(): Promise<{ records: SandboxRecord[]; damaged: string[] }> {
    const records: SandboxRecord[] = []
    const damaged: string[] = []
    for (const name of await readdir(this.#directory)) {
      const path = join(this.#directory, name)
      if (!name.endsWith('.json')) {
        await rm(path, { force: true })
        continue
      }
      try {
        records.push(SandboxRecord.parse(JSON.parse(await readFile(path, 'utf8'))))
      } catch {
        damaged.push(name)
        await rename(path, `${path}.damaged`)
      }
    }
    return { records, damaged }
  }

  /** Whole or not at all. Not synced: what the kernel holds outlives the agent, and no VM outlives the kernel. */
  async put(record: SandboxRecord): Promise<void> {
    const path = join(this.#directory, `${record.id}.json`)
    {
      await using handle = await open(`${path}.new`, 'w', 0o600)
      await handle.writeFile(JSON.stringify(record))
      // A paused sandbox is to outlive the machine's restart as well.
      if (record.phase === 'paused') await handle.sync()
    }
    await rename(`${path}.new`, path)
  }

  async delete(id: SandboxId): Promise<void> {
    await rm(join(this.#directory, `${id}.json`), { force: true })
  }
}
