import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { Exit } from '../driver.ts'
import type { ProcessMark, ProcessTable } from './table.ts'

/** The directory of one attempt: written before its first process exists, and removed when nothing is left of it. */
export class AttemptFiles {
  readonly directory: string
  readonly attempt: number
  readonly #table: ProcessTable

  constructor(stateDirectory: string, attempt: number, table: ProcessTable) {
    this.directory = join(stateDirectory, `process-${attempt}`)
    this.attempt = attempt
    this.#table = table
  }

  static async all(stateDirectory: string, table: ProcessTable): Promise<AttemptFiles[]> {
    const names = await readdir(stateDirectory).catch(() => [])
    const numbers = names.map((name) => /^process-(\d+)$/.exec(name)?.[1]).filter((number) => number !== undefined)
    return numbers.map((number) => new AttemptFiles(stateDirectory, Number(number), table))
  }

  /** What is about to be done. An intent that is there stays as it is. */
  begin(intent: Intent): Intent {
    mkdirSync(this.directory, { recursive: true, mode: 0o700 })
    const before = this.intent()
    if (before) return before
    writeFileSync(join(this.directory, 'intent'), JSON.stringify(intent))
    return intent
  }

  intent(): Intent | undefined {
    try {
      return Intent.parse(JSON.parse(this.#read('intent')))
    } catch {
      return undefined
    }
  }

  /** Some parent has begun, or the attempt was given up. */
  get claimed(): boolean {
    return existsSync(join(this.directory, 'parent'))
  }

  /** Makes sure that no parent begins from now on; false when one has. */
  giveUp(): boolean {
    try {
      writeFileSync(join(this.directory, 'parent'), 'nobody\n', { flag: 'wx' })
      return true
    } catch {
      return this.#read('parent') === 'nobody\n'
    }
  }

  parent(): ProcessMark | undefined {
    return this.#table.parse(this.#read('parent'))
  }

  task(): ProcessMark | undefined {
    return this.#table.parse(this.#read('task'))
  }

  exitCode(): number | undefined {
    const code = /^(\d{1,3})\n$/.exec(this.#read('exit'))?.[1]
    return code === undefined ? undefined : Number(code)
  }

  /** Everything about the end, once an agent has looked into it. */
  outcome(): Exit | undefined {
    try {
      return Outcome.parse(JSON.parse(this.#read('outcome')))
    } catch {
      return undefined
    }
  }

  /** False when it could not be written, such as on a full disk. */
  noteOutcome(exit: Exit): boolean {
    try {
      writeFileSync(join(this.directory, 'outcome'), JSON.stringify(exit))
      return true
    } catch {
      return false
    }
  }

  async remove(): Promise<void> {
    await rm(this.directory, { recursive: true, force: true })
  }

  #read(name: string): string {
    try {
      return readFileSync(join(this.directory, name), 'utf8')
    } catch {
      return ''
    }
  }
}

const Intent = z.object({
  /** Ms since the epoch. */
  startedAt: z.number(),
  /** Differs after every start of the machine; empty where that cannot be known. */
  boot: z.string(),
  /** Its cgroup; empty without. */
  group: z.string(),
})
export type Intent = z.infer<typeof Intent>

const Outcome = z.object({
  code: z.int().min(0).max(255),
  signal: z.string().optional(),
  outOfMemory: z.boolean().optional(),
  unknown: z.string().optional(),
})

export function bootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  } catch {
    return ''
  }
}
