import type { AllocationRecord, Ledger, Loaded } from '../ledger.ts'

/**
 * A ledger that lives as long as its object: for simulation. It keeps copies, so that reopening it after a simulated
 * crash gives what was saved and nothing that was merely thought.
 */
export class MemoryLedger implements Ledger {
  readonly #records = new Map<string, string>()
  #version = 0
  readonly #copies: boolean

  /** Without copies it cannot survive a crash, and costs nothing. */
  constructor({ copies = true }: { copies?: boolean } = {}) {
    this.#copies = copies
  }

  load(): Loaded {
    const records = [...this.#records.values()].map((text) => JSON.parse(text) as AllocationRecord)
    return { records, version: this.#version }
  }

  async save(record: AllocationRecord): Promise<void> {
    if (this.#copies) this.#records.set(record.assignment.id, JSON.stringify(record))
  }

  async forget(id: string): Promise<void> {
    this.#records.delete(id)
  }

  async saveVersion(version: number): Promise<void> {
    this.#version = version
  }

  async close(): Promise<void> {}
}
