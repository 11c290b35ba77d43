/** The rows that a list query asks for, in the order of their keys, and where the next page begins. */
export function page<T>(
  rows: Iterable<T>,
  keyOf: (row: T) => string,
  { after, limit }: { after?: string | undefined; limit: number },
): { rows: T[]; next: string | null } {
  const wanted = [...rows]
    .map((row) => ({ key: keyOf(row), row }))
    .filter(({ key }) => after === undefined || key > after)
    .sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0))
  const kept = wanted.slice(0, limit)
  return { rows: kept.map(({ row }) => row), next: wanted.length > limit ? (kept.at(-1)?.key ?? null) : null }
}
