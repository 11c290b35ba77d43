import type { Clock } from '../kit/clock.ts'
import { Wakeup } from '../kit/wakeup.ts'
import type { AllocationStatus } from '../model/allocation.ts'
import type { AgentEvent, AgentMessage } from '../wire/messages.ts'
import { eventKinds } from './event-kinds.ts'

/** What the reporter asks of an allocation. */
export interface Reported {
  readonly id: string
  status(): AllocationStatus
  readonly record: { noted: boolean }
  save(): Promise<void>
}

type Report = Extract<AgentMessage, { type: 'report' }>

/**
 * Says to the control plane how allocations are, and what happened. Only the latest status of each is kept and sent,
 * and repeated in the next session until it is noted as durable; so it may be asked as often as anything changes.
 */
export class Reporter {
  readonly #clock: Clock
  readonly #dirty = new Map<string, Reported>()
  #events: AgentEvent[] = []
  readonly #underway = new Map<number, { reported: Reported[]; events: AgentEvent[] }>()
  readonly #latest = new Map<string, number>()
  readonly #wakeup = new Wakeup()
  #report = 0
  #sentAt = Number.NEGATIVE_INFINITY
  #budget = { second: 0, left: 0, dropped: 0 }

  constructor({ clock }: { clock: Clock }) {
    this.#clock = clock
  }

  get pending(): number {
    return this.#dirty.size + this.#underway.size
  }

  status(reported: Reported): void {
    this.#dirty.set(reported.id, reported)
    this.#wakeup.ring()
  }

  /** Ordinary news beyond so many a second is left out, because nobody could read it; warnings and errors never are. */
  event(event: AgentEvent): void {
    const second = Math.floor(event.at / 1000)
    if (this.#budget.second !== second) {
      const { dropped } = this.#budget
      this.#budget = { second, left: eventsPerSecond, dropped: 0 }
      if (dropped > 0) {
        const message = `${dropped} ordinary events were left out, because there were too many at once`
        this.#events.push({ at: event.at, level: 'info', kind: eventKinds.eventsLeftOut, message })
      }
    }
    if (event.level === 'info' && this.#budget.left-- <= 0) {
      this.#budget.dropped += 1
      return
    }
    this.#events.push(event)
    if (this.#events.length > maxEvents) this.#events.splice(0, this.#events.length - maxEvents)
    this.#wakeup.ring()
  }

  forget(id: string): void {
    this.#dirty.delete(id)
    this.#latest.delete(id)
  }

  /** Everything up to this report is durable over there. */
  noted(report: number): void {
    for (const [number, { reported }] of this.#underway) {
      if (number > report) break
      this.#underway.delete(number)
      for (const one of reported) {
        if (this.#latest.get(one.id) !== number || this.#dirty.has(one.id)) continue
        this.#latest.delete(one.id)
        one.record.noted = true
        one.save().catch(() => {})
      }
    }
  }

  /** The session is over: what was not noted is to be said again. */
  repeat(): void {
    const events: AgentEvent[] = []
    for (const { reported, events: unsaid } of this.#underway.values()) {
      events.push(...unsaid)
      for (const one of reported) if (this.#latest.has(one.id)) this.#dirty.set(one.id, one)
    }
    this.#underway.clear()
    this.#latest.clear()
    this.#events = [...events, ...this.#events].slice(-maxEvents)
    this.#wakeup.ring()
  }

  /** Sends what there is, and goes on until aborted or sending fails. */
  async run(send: (report: Report) => Promise<void>, { signal }: { signal: AbortSignal }): Promise<void> {
    while (!signal.aborted) {
      if (this.#dirty.size === 0 && this.#events.length === 0) {
        await this.#wakeup.next({ clock: this.#clock, withinMs: idleMs, signal })
        continue
      }
      // What changes within a moment of the first change travels with it; after a quiet while that moment is short.
      const sinceLastMs = this.#clock.monotonic() - this.#sentAt
      await this.#clock.sleep(Math.max(leastGatherMs, gatherMs - sinceLastMs), { signal })
      while ((this.#dirty.size > 0 || this.#events.length > 0) && !signal.aborted) await send(this.#take())
      this.#sentAt = this.#clock.monotonic()
    }
  }

  #take(): Report {
    const report = ++this.#report
    const reported: Reported[] = []
    for (const one of this.#dirty.values()) {
      reported.push(one)
      this.#dirty.delete(one.id)
      this.#latest.set(one.id, report)
      if (reported.length === maxPerReport) break
    }
    const events = this.#events.splice(0, maxPerReport)
    this.#underway.set(report, { reported, events })
    return { type: 'report', report, statuses: reported.map((one) => one.status()), events }
  }
}

const gatherMs = 6
const leastGatherMs = 1
const idleMs = 60_000
const maxPerReport = 1000
/** What is kept while nobody listens. */
const maxEvents = 2000
const eventsPerSecond = 200
