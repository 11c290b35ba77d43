import type { TableName } from '../model/records.ts'
import { indexesOf } from './indexes.ts'
import type { IndexName } from './store.ts'

/** A row of any table. */
export type Row = object

/**
 * Rows, and the index entries of these rows. The bottom layer is the durable state. The layers above hold what is on its
 * way: a transaction's puts, the batch being collected, the batch being written; there, `undefined` says "deleted".
 *
 * A layer's indexes speak of its own rows only. A reader that comes down through the layers (`layered-view.ts`) skips
 * what a higher layer has touched, so nothing is ever copied from below.
 */
export class Layer {
  readonly #isBottom: boolean
  readonly #tables = new Map<TableName, Map<string, Row | undefined>>()
  readonly #buckets = new Map<IndexName, Map<string, Map<string, Row>>>()
  readonly #growth = new Map<TableName, number>()

  constructor({ isBottom = false }: { isBottom?: boolean } = {}) {
    this.#isBottom = isBottom
  }

  rows(table: TableName): ReadonlyMap<string, Row | undefined> {
    return this.#tables.get(table) ?? nothing
  }

  tables(): IterableIterator<TableName> {
    return this.#tables.keys()
  }

  bucket(index: IndexName, key: string): ReadonlyMap<string, Row> {
    return this.#buckets.get(index)?.get(key) ?? nothing
  }

  bucketKeys(index: IndexName): Iterable<string> {
    return this.#buckets.get(index)?.keys() ?? []
  }

  /** How many rows more (or less) there are with this layer than without it. */
  growth(table: TableName): number {
    return this.#growth.get(table) ?? 0
  }

  /** `before` is the row as seen through this layer and those below it. */
  set(table: TableName, key: string, row: Row | undefined, before: Row | undefined): void {
    const rows = getOrCreate(this.#tables, table)
    const own = rows.get(key)
    if (row === undefined && this.#isBottom) rows.delete(key)
    else rows.set(key, row)
    this.#grow(table, rowsGained(row, before))
    for (const index of indexesOf(table)) {
      const last = own && index.key(own)
      const next = row && index.key(row)
      if (last !== undefined && last !== next) this.#removeFromBucket(index.name, last, key)
      if (row !== undefined && next !== undefined)
        getOrCreate(getOrCreate(this.#buckets, index.name), next).set(key, row)
    }
  }

  /** This very change is now in the layer below as well, so it no longer counts as this layer's growth. */
  settle(table: TableName, row: Row | undefined, before: Row | undefined): void {
    this.#grow(table, -rowsGained(row, before))
  }

  #grow(table: TableName, by: number): void {
    if (by !== 0) this.#growth.set(table, this.growth(table) + by)
  }

  #removeFromBucket(index: IndexName, bucketKey: string, key: string): void {
    const bucket = this.#buckets.get(index)?.get(bucketKey)
    bucket?.delete(key)
    if (bucket?.size === 0) this.#buckets.get(index)?.delete(bucketKey)
  }
}

const nothing: ReadonlyMap<string, never> = new Map<string, never>()

function rowsGained(row: Row | undefined, before: Row | undefined): number {
  return (row === undefined ? 0 : 1) - (before === undefined ? 0 : 1)
}

function getOrCreate<K, InnerKey, V>(map: Map<K, Map<InnerKey, V>>, key: K): Map<InnerKey, V> {
  const found = map.get(key)
  if (found !== undefined) return found
  const created = new Map<InnerKey, V>()
  map.set(key, created)
  return created
}
