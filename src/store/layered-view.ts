import type { TableName, Tables } from '../model/records.ts'
import { indexes } from './indexes.ts'
import type { Layer, Row } from './layer.ts'
import type { IndexName, IndexTables, View } from './store.ts'

/**
 * Reads through layers, newest first: what a higher layer has touched hides what lies below. The cost follows the
 * answer (a bucket, a row), not the size of a table nor how much is staged.
 */
export class LayeredView implements View {
  readonly #layers: readonly Layer[]

  constructor(layers: readonly Layer[]) {
    this.#layers = layers
  }

  // The casts in here are sound because `Layer.set` is only reached with a table and a row of that table.

  get<T extends TableName>(table: T, key: string): Tables[T] | undefined {
    for (const layer of this.#layers) {
      const rows = layer.rows(table)
      const row = rows.get(key)
      if (row !== undefined) return row as Tables[T]
      if (rows.has(key)) return undefined
    }
    return undefined
  }

  all<T extends TableName>(table: T): Tables[T][] {
    return this.#collect(table, (layer) => layer.rows(table)) as Tables[T][]
  }

  by<I extends IndexName>(index: I, key: string): Tables[IndexTables[I]][] {
    return this.#collect(indexes[index].table, (layer) => layer.bucket(index, key)) as Tables[IndexTables[I]][]
  }

  count(table: TableName): number {
    let count = 0
    for (const layer of this.#layers) count += layer.growth(table)
    return count
  }

  /** The keys under which an index has, or had in a lower layer, any row. */
  bucketKeys(index: IndexName): Set<string> {
    return new Set(this.#layers.flatMap((layer) => [...layer.bucketKeys(index)]))
  }

  #collect(table: TableName, rowsIn: (layer: Layer) => ReadonlyMap<string, Row | undefined>): Row[] {
    const found: Row[] = []
    const above: ReadonlyMap<string, unknown>[] = []
    for (const layer of this.#layers) {
      for (const [key, row] of rowsIn(layer)) {
        if (row !== undefined && !above.some((rows) => rows.has(key))) found.push(row)
      }
      const touched = layer.rows(table)
      if (touched.size > 0) above.push(touched)
    }
    return found
  }
}
