import { createHash } from 'node:crypto'
import { chmodSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { dirname } from 'node:path'
import { DatabaseSync, type StatementSync } from 'node:sqlite'
import { z } from 'zod'
import { AllocationStatus, allocationPhases, TaskStatus } from '../../model/allocation.ts'
import { sentence } from '../../model/fault.ts'
import { JobSpec } from '../../model/job.ts'
import { Assignment } from '../../wire/messages.ts'
import { type AllocationRecord, type Ledger, type Loaded, taskSteps } from '../ledger.ts'

/**
 * The ledger in one SQLite file (WAL; a commit survives the death of the process, which is what it is for: a machine
 * that loses power loses its workloads too). All records saved in one turn are one transaction. A file that cannot be
 * read is moved aside and an empty ledger begun; the control plane's full set then decides.
 */
export class SqliteLedger implements Ledger {
  readonly #database: DatabaseSync
  readonly #loaded: Loaded
  readonly #statements: Record<'assignment' | 'state' | 'plan' | 'dropPlan' | 'spec' | 'version', StatementSync>
  readonly #forgets: StatementSync[]
  readonly #dropSpec: StatementSync
  readonly #dirty = new Map<string, AllocationRecord | null>()
  readonly #written = new Map<string, Written>()
  readonly #specUses = new Map<string, number>()
  readonly #specKeys = new WeakMap<JobSpec, string>()
  #version: number | undefined
  #flushing: PromiseWithResolvers<void> | undefined
  #closed = false

  /** `now` only names a file that is put aside. */
  static open(path: string, { now }: { now: number }): SqliteLedger {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
    try {
      return new SqliteLedger(path)
    } catch (error) {
      const aside = `${path}.unreadable-${now}`
      for (const ending of ['-wal', '-shm']) rmSync(path + ending, { force: true })
      renameSync(path, aside)
      const ledger = new SqliteLedger(path)
      ledger.#loaded.lost = `the agent's ledger could not be read (${reasonOf(error)}); it was moved to ${aside}`
      return ledger
    }
  }

  private constructor(path: string) {
    const database = new DatabaseSync(path, { timeout: 5000 })
    try {
      chmodSync(path, 0o600)
      database.exec('pragma journal_mode = wal; pragma synchronous = normal')
      database.exec(tables)
      const keys = new Map<string, Written>()
      this.#loaded = readAll(database, keys)
      this.#written = keys
      for (const { specKey } of keys.values()) this.#specUses.set(specKey, (this.#specUses.get(specKey) ?? 0) + 1)
      for (const { assignment, spec } of this.#loaded.records) {
        const key = keys.get(assignment.id)?.specKey
        if (key !== undefined) this.#specKeys.set(spec, key)
      }
      this.#statements = {
        assignment: database.prepare('insert or replace into assignments (id, spec, json) values (?, ?, ?)'),
        state: database.prepare('insert or replace into states (id, json) values (?, ?)'),
        plan: database.prepare('insert or replace into plans (id, task, json) values (?, ?, ?)'),
        dropPlan: database.prepare('delete from plans where id = ? and task = ?'),
        spec: database.prepare('insert or ignore into specs (key, json) values (?, ?)'),
        version: database.prepare("insert or replace into facts (name, value) values ('version', ?)"),
      }
      this.#forgets = ['assignments', 'states', 'plans'].map((table) =>
        database.prepare(`delete from ${table} where id = ?`),
      )
      this.#dropSpec = database.prepare('delete from specs where key = ?')
      this.#database = database
    } catch (error) {
      database.close()
      throw error
    }
  }

  load(): Loaded {
    return this.#loaded
  }

  save(record: AllocationRecord): Promise<void> {
    this.#dirty.set(record.assignment.id, record)
    return this.#soon()
  }

  forget(id: string): Promise<void> {
    this.#dirty.set(id, null)
    return this.#soon()
  }

  saveVersion(version: number): Promise<void> {
    this.#version = version
    return this.#soon()
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#flush()
    this.#closed = true
    this.#database.close()
  }

  #soon(): Promise<void> {
    if (this.#closed) return Promise.resolve()
    if (this.#flushing === undefined) {
      this.#flushing = Promise.withResolvers()
      setImmediate(() => this.#flush())
    }
    return this.#flushing.promise
  }

  #flush(): void {
    const flushing = this.#flushing
    if (this.#closed || flushing === undefined) return
    this.#flushing = undefined
    try {
      this.#database.exec('begin immediate')
      for (const [id, record] of this.#dirty) {
        if (record === null) this.#erase(id)
        else this.#write(id, record)
      }
      if (this.#version !== undefined) this.#statements.version.run(this.#version)
      this.#database.exec('commit')
      this.#dirty.clear()
      this.#version = undefined
      flushing.resolve()
    } catch (error) {
      try {
        this.#database.exec('rollback')
      } catch {
        // There was no transaction to roll back.
      }
      // What was half written is written again with the next batch.
      this.#written.clear()
      flushing.promise.catch(() => {})
      flushing.reject(new Error(`the agent's ledger could not be written: ${sentence(error)}`, { cause: error }))
    }
  }

  #write(id: string, record: AllocationRecord): void {
    const { assignment, spec, tasks, ...rest } = record
    let written = this.#written.get(id)
    if (written === undefined) {
      const specKey = this.#keyOf(spec)
      this.#specUses.set(specKey, (this.#specUses.get(specKey) ?? 0) + 1)
      this.#statements.spec.run(specKey, JSON.stringify(spec))
      written = { specKey, assignment: undefined, plans: new Map() }
      this.#written.set(id, written)
    }
    if (written.assignment !== assignment) {
      this.#statements.assignment.run(id, written.specKey, JSON.stringify(assignment))
      written.assignment = assignment
    }
    const states: Record<string, unknown> = {}
    for (const [name, { plan, ...state }] of Object.entries(tasks)) {
      states[name] = state
      if (written.plans.get(name) === (plan ?? undefined)) continue
      if (plan === null) {
        this.#statements.dropPlan.run(id, name)
        written.plans.delete(name)
      } else {
        this.#statements.plan.run(id, name, JSON.stringify(plan))
        written.plans.set(name, plan)
      }
    }
    this.#statements.state.run(id, JSON.stringify({ ...rest, tasks: states }))
  }

  #erase(id: string): void {
    for (const statement of this.#forgets) statement.run(id)
    const key = this.#written.get(id)?.specKey
    this.#written.delete(id)
    if (key === undefined) return
    const uses = (this.#specUses.get(key) ?? 1) - 1
    if (uses > 0) {
      this.#specUses.set(key, uses)
      return
    }
    this.#specUses.delete(key)
    this.#dropSpec.run(key)
  }

  #keyOf(spec: JobSpec): string {
    let key = this.#specKeys.get(spec)
    if (key === undefined) {
      key = createHash('sha256').update(JSON.stringify(spec)).digest('hex')
      this.#specKeys.set(spec, key)
    }
    return key
  }
}

function reasonOf(error: unknown): string {
  const issue = error instanceof z.ZodError ? error.issues[0] : undefined
  return issue ? `${issue.path.join('.')}: ${issue.message}` : sentence(error)
}

/** What of an allocation is on disk already, so that only what changed is written. */
interface Written {
  specKey: string
  assignment: Assignment | undefined
  plans: Map<string, object>
}

const tables = `
  create table if not exists assignments (id text primary key, spec text not null, json text not null) without rowid;
  create table if not exists states (id text primary key, json text not null) without rowid;
  create table if not exists plans (id text, task text, json text not null, primary key (id, task)) without rowid;
  create table if not exists specs (key text primary key, json text not null) without rowid;
  create table if not exists facts (name text primary key, value) without rowid;
`

const PlanText = z.looseObject({ id: z.string(), directory: z.string(), attempt: z.int(), spec: z.unknown() })

const State = z.object({
  phase: z.enum(allocationPhases),
  outcome: z.object({ phase: z.enum(['complete', 'failed', 'stopped']), message: z.string() }).nullable(),
  healthy: AllocationStatus.shape.healthy,
  noted: z.boolean(),
  tasks: z.record(
    z.string(),
    z.object({
      step: z.enum(taskSteps),
      prepared: z.boolean(),
      attempt: z.int(),
      generation: z.int(),
      failures: z.array(z.number()),
      resumeAt: z.number(),
      env: z.record(z.string(), z.string()),
      status: TaskStatus,
    }),
  ),
})

function readAll(database: DatabaseSync, written: Map<string, Written>): Loaded {
  const check = database.prepare('pragma quick_check').get()
  if (check?.['quick_check'] !== 'ok') throw new Error(`its check says: ${String(check?.['quick_check'])}`)
  const specs = new Map<string, JobSpec>()
  for (const row of database.prepare('select key, json from specs').all()) {
    specs.set(String(row['key']), JobSpec.parse(JSON.parse(String(row['json']))))
  }
  const plans = new Map<string, Map<string, object>>()
  for (const row of database.prepare('select id, task, json from plans').all()) {
    const id = String(row['id'])
    const plan = PlanText.parse(JSON.parse(String(row['json'])))
    plans.set(id, (plans.get(id) ?? new Map<string, object>()).set(String(row['task']), plan))
  }
  const records: AllocationRecord[] = []
  const rows = database.prepare(
    'select a.id, a.spec, a.json, s.json as state from assignments a join states s using (id)',
  )
  for (const row of rows.iterate()) {
    const id = String(row['id'])
    const assignment = Assignment.parse(JSON.parse(String(row['json'])))
    const { tasks, ...state } = State.parse(JSON.parse(String(row['state'])))
    const spec = specs.get(String(row['spec']))
    if (spec === undefined) throw new Error(`the spec of allocation ${id} is missing`)
    const own = plans.get(id) ?? new Map<string, object>()
    const full: AllocationRecord['tasks'] = {}
    for (const [name, task] of Object.entries(tasks)) {
      // Plans are read back exactly as this file wrote them.
      full[name] = { ...task, plan: (own.get(name) as AllocationRecord['tasks'][string]['plan'] | undefined) ?? null }
    }
    records.push({ ...state, assignment, spec, tasks: full })
    written.set(id, { specKey: String(row['spec']), assignment, plans: own })
  }
  const version = database.prepare("select value from facts where name = 'version'").get()
  return { records, version: Number(version?.['value'] ?? 0) }
}
