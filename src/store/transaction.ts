import { Fault } from '../model/fault.ts'
import { keyOf, type TableName, type Tables } from '../model/records.ts'
import { encodeChanges } from './entry.ts'
import { Layer, type Row } from './layer.ts'
import { LayeredView } from './layered-view.ts'
import { freezePlain } from './plain.ts'
import type { Change, IndexName, IndexTables, Tx } from './store.ts'

export interface TransactionResult<T> {
  result: T
  /** What is different now from below; empty when nothing is. */
  changes: Change[]
  /** The same as JSON. */
  encoded: string
  /** The rows put and deleted; nobody changes it any more. */
  layer: Layer
}

/** Runs `change` on a transaction over the given layers, newest first. Throws what it throws; those layers are not touched. */
export function runTransaction<T>(
  change: (tx: Tx) => T,
  { now, below, debug }: { now: number; below: readonly Layer[]; debug: boolean },
): TransactionResult<T> {
  const layer = new Layer()
  const tx = new Transaction({ now, layer, below, debug })
  try {
    const result = change(tx)
    if (isThenable(result)) {
      Promise.resolve(result).catch(() => {}) // its end interests nobody, and must not be reported as unhandled
      throw new Fault('internal', 'the change of a write returned a promise; read and compute before, then write')
    }
    const changes = changesOf(layer, new LayeredView(below))
    return { result, changes, encoded: encodeChanges(changes), layer }
  } finally {
    tx.end()
  }
}

class Transaction implements Tx {
  readonly now: number
  readonly #layer: Layer
  readonly #view: LayeredView
  readonly #debug: boolean
  #isOver = false

  constructor({ now, layer, below, debug }: { now: number; layer: Layer; below: readonly Layer[]; debug: boolean }) {
    this.now = now
    this.#layer = layer
    this.#view = new LayeredView([layer, ...below])
    this.#debug = debug
  }

  get<T extends TableName>(table: T, key: string): Tables[T] | undefined {
    return this.#open().get(table, key)
  }

  all<T extends TableName>(table: T): Iterable<Tables[T]> {
    return this.#open().all(table)
  }

  count(table: TableName): number {
    return this.#open().count(table)
  }

  by<I extends IndexName>(index: I, key: string): Iterable<Tables[IndexTables[I]]> {
    return this.#open().by(index, key)
  }

  put<T extends TableName>(table: T, row: Tables[T]): void {
    const key = keyOf[table](row)
    const before = this.#open().get(table, key)
    if (before === row) return
    if (this.#debug) freezePlain(row, `${table} "${key}"`)
    this.#layer.set(table, key, row, before)
  }

  delete(table: TableName, key: string): void {
    const before = this.#open().get(table, key)
    if (before !== undefined) this.#layer.set(table, key, undefined, before)
  }

  end(): void {
    this.#isOver = true
  }

  #open(): LayeredView {
    if (this.#isOver) throw new Fault('internal', 'a transaction was used after its write had ended')
    return this.#view
  }
}

function changesOf(layer: Layer, below: LayeredView): Change[] {
  const changes: Change[] = []
  for (const table of layer.tables()) {
    for (const [key, row] of layer.rows(table)) {
      const before: Row | undefined = below.get(table, key)
      // The cast is sound: row and before come from the same table.
      if (row !== before) changes.push({ table, key, row, before } as Change)
    }
  }
  return changes
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as { then?: unknown } | null | undefined)?.then === 'function'
}
