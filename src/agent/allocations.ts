import { isTerminal } from '../model/allocation.ts'
import { sentence } from '../model/fault.ts'
import type { Assignment, ControlMessage } from '../wire/messages.ts'
import { AllocationRunner, newRecord, type Parts } from './allocation-runner.ts'
import { taskId } from './environment.ts'
import { eventKinds } from './event-kinds.ts'
import { planStep, type Wanted } from './plan.ts'

type Full = Extract<ControlMessage, { type: 'full' }>
type Delta = Extract<ControlMessage, { type: 'delta' }>

/**
 * All allocations of this node, and the set that the control plane assigned. A full set replaces what was wanted; a
 * delta applies only on the version it names. Only a full set may end what it does not name: an agent that does not
 * know what is wanted leaves alone what runs.
 */
export class Allocations {
  readonly #parts: Parts
  readonly #runners = new Map<string, AllocationRunner>()
  /** Of the set in this session's terms; undefined until its first full set. */
  #version: number | undefined
  /** Nothing is remembered, so whatever is assigned first may run already. */
  #blank: boolean
  #swept = false

  constructor(parts: Parts) {
    this.#parts = parts
    const { records } = parts.ledger.load()
    for (const record of records) this.#runners.set(record.assignment.id, new AllocationRunner(record, parts))
    this.#blank = records.length === 0
  }

  get count(): number {
    return this.#runners.size
  }

  get(id: string): AllocationRunner | undefined {
    return this.#runners.get(id)
  }

  all(): Iterable<AllocationRunner> {
    return this.#runners.values()
  }

  /** Adopts what earlier agents left, and lets every life go on. */
  async resume(): Promise<void> {
    await Promise.all([...this.#runners.values()].map((runner) => runner.resume()))
    for (const runner of this.#runners.values()) {
      runner.start()
      if (!runner.record.noted) this.#parts.publish(runner)
    }
  }

  /** A new session: its first delta needs a full set before. */
  forgetVersion(): void {
    this.#version = undefined
  }

  async applyFull({ version, specs, assignments }: Full): Promise<void> {
    const named = new Set<string>(assignments.map(({ id }) => id))
    this.#version = version
    const saved = this.#put(assignments, specs)
    for (const id of this.#runners.keys()) if (!named.has(id)) this.#step('gone', id)
    await Promise.all([saved, this.#parts.ledger.saveVersion(version)])
    // Over there something may have been lost that was noted once; saying it again costs little.
    for (const id of named) {
      const runner = this.#runners.get(id)
      if (runner) this.#parts.publish(runner)
    }
    this.#blank = false
    if (!this.#swept) {
      this.#swept = true
      await this.#sweep(named)
    }
  }

  /** False when it does not follow on what we have: everything is needed then. */
  async applyDelta({ base, version, specs, put, remove }: Delta): Promise<boolean> {
    if (this.#version !== base) {
      this.#version = undefined
      return false
    }
    this.#version = version
    const saved = this.#put(put, specs)
    for (const id of remove) this.#step('gone', id)
    await Promise.all([saved, this.#parts.ledger.saveVersion(version)])
    return true
  }

  async close(): Promise<void> {
    await Promise.all([...this.#runners.values()].map((runner) => runner.close()))
  }

  /** Takes assignments in; resolves once they are written down and have begun. */
  async #put(assignments: readonly Assignment[], specs: Full['specs']): Promise<void> {
    const begun: AllocationRunner[] = []
    const saves: Promise<void>[] = []
    for (const assignment of assignments) {
      const runner = this.#runners.get(assignment.id)
      if (runner) {
        const known = runner.record.assignment
        this.#step(assignment.desired, assignment.id, assignment)
        if (known !== runner.record.assignment) saves.push(runner.save())
        continue
      }
      const spec = specs[assignment.spec]
      if (spec === undefined) {
        this.#parts.log.error(
          { allocation: assignment.id, spec: assignment.spec },
          'an assignment came without its spec',
        )
        continue
      }
      const fresh = new AllocationRunner(newRecord(assignment, spec), this.#parts)
      this.#runners.set(assignment.id, fresh)
      begun.push(fresh)
      saves.push(fresh.save())
    }
    await Promise.all(saves)
    if (this.#blank) await Promise.all(begun.map((runner) => runner.seek()))
    for (const runner of begun) runner.start()
  }

  #step(wanted: Wanted, id: string, assignment?: Assignment): void {
    const runner = this.#runners.get(id)
    const step = planStep(wanted, runner?.here ?? 'absent')
    switch (step) {
      case 'update':
      case 'stop':
        if (assignment && runner && !same(assignment, runner.record.assignment)) runner.update(assignment)
        return
      case 'remove':
      case 'stop and remove':
        if (runner) void this.#remove(runner)
        return
      case 'begin':
      case 'settle':
      case 'nothing':
        return
      default:
        step satisfies never
    }
  }

  async #remove(runner: AllocationRunner): Promise<void> {
    try {
      await runner.remove()
      if (this.#parts.signal.aborted || this.#runners.get(runner.id) !== runner) return
      this.#runners.delete(runner.id)
      this.#parts.forget(runner)
    } catch (error) {
      this.#parts.log.error({ err: error, allocation: runner.id }, 'an allocation could not be removed')
    }
  }

  /** Ends what is left of allocations that neither the set nor the ledger knows. */
  async #sweep(named: ReadonlySet<string>): Promise<void> {
    const { workspace, drivers, log } = this.#parts
    for (const { allocation, tasks } of await workspace.list().catch(() => [])) {
      if (named.has(allocation) || this.#runners.has(allocation)) continue
      try {
        for (const task of tasks) {
          const { directory } = workspace.places(allocation, task)
          for (const driver of drivers.values()) await driver.remove({ id: taskId(allocation, task), directory })
        }
        await workspace.remove(allocation)
        this.#parts.event({
          at: this.#parts.clock.now(),
          level: 'warning',
          kind: eventKinds.leftoverRemoved,
          message: `what was left of the unknown allocation ${allocation} was ended and removed`,
        })
      } catch (error) {
        log.warn({ err: error, allocation }, `a leftover could not be removed: ${sentence(error)}`)
      }
    }
  }

  /** How many are on their way or running. */
  get live(): number {
    let live = 0
    for (const { record } of this.#runners.values()) if (!isTerminal(record.phase)) live += 1
    return live
  }
}

/** Versions of a job differ in its spec, which an allocation keeps for life. */
function same(one: Assignment, other: Assignment): boolean {
  return one.desired === other.desired && one.generation === other.generation
}
