import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import type { Exit } from '../../driver.ts'
import { exitOf, isAlive, isInCgroup, type ProcessMark, parseStat } from '../processes.ts'
import { cgroupParent } from './cgroups.ts'

/** One attempt as its files and the process table tell of it, to whichever agent asks. */
export class AttemptFiles {
  readonly directory: string
  readonly containerId: string
  readonly cgroup: string

  constructor(stateDirectory: string, id: string, attempt: number) {
    this.directory = join(stateDirectory, `container-${attempt}`)
    this.containerId = `${id}.${attempt}`
    this.cgroup = `${cgroupParent}/${this.containerId}`
  }

  at(name: string): string {
    return join(this.directory, name)
  }

  get supervisor(): ProcessMark | undefined {
    const line = this.#line('supervisor')
    return line === undefined ? undefined : parseStat(line)
  }

  /** The container's first process, if it is the one that lives under this number. */
  get livePid(): number | undefined {
    const pid = this.pid
    return pid !== undefined && isInCgroup(pid, this.cgroup) ? pid : undefined
  }

  /** Set once the task runs or has run. */
  get pid(): number | undefined {
    const text = this.#text('pid')
    return /^\d+$/.test(text) ? Number(text) : undefined
  }

  get startedAt(): number {
    return Math.round(statSync(this.at('pid')).mtimeMs)
  }

  get exit(): Exit | undefined {
    const words = this.#line('exit')?.split(' ')
    if (words === undefined) return undefined
    return exitOf(Number(words[0]), Number(words[1]) > 0)
  }

  /** How it stands; to be asked again when one of the files may have changed. */
  look(): 'none' | 'starting' | 'running' | 'failed' | 'exited' | 'vanished' {
    const supervisor = this.supervisor
    const supervised = supervisor !== undefined && isAlive(supervisor)
    const exit = this.exit
    if (exit) return this.pid === undefined ? 'failed' : 'exited'
    if (this.livePid !== undefined) return 'running'
    if (supervised) return this.pid === undefined ? 'starting' : 'running'
    if (supervisor === undefined) return 'none'
    // It may have written between our two looks.
    if (this.exit) return this.look()
    return this.pid === undefined ? 'failed' : 'vanished'
  }

  /** What the runtime said when it could not start the task. */
  get complaint(): string {
    const log = this.#text('runtime.log')
    const lines = log.split('\n').flatMap((line) => {
      const parsed = LogLine.safeParse(parseJson(line))
      return parsed.success && parsed.data.level === 'error' ? [parsed.data.msg] : []
    })
    if (lines.length > 0) return lines.at(-1) ?? ''
    return this.#text('mount.log').trim().slice(-500)
  }

  #line(name: string): string | undefined {
    const text = this.#text(name)
    return text.endsWith('\n') ? text.trimEnd() : undefined
  }

  /** Empty when there is no such file, or no longer: they go when the task is removed, whoever looks at the moment. */
  #text(name: string): string {
    try {
      return readFileSync(this.at(name), 'utf8')
    } catch {
      return ''
    }
  }
}

const LogLine = z.object({ level: z.string(), msg: z.string() })

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
