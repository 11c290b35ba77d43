/** Sets of IPv4 addresses as ranges of numbers, both ends in them. */
export interface Range {
  first: number
  last: number
}

/** The same addresses in as few ranges as possible, in order. */
export function merge(ranges: readonly Range[]): Range[] {
  const merged: Range[] = []
  for (const range of [...ranges].sort((a, b) => a.first - b.first)) {
    const before = merged.at(-1)
    if (before !== undefined && range.first <= before.last + 1) before.last = Math.max(before.last, range.last)
    else merged.push({ ...range })
  }
  return merged
}

/** What of `ranges` does not lie in `without`. */
export function subtract(ranges: readonly Range[], without: readonly Range[]): Range[] {
  const gone = merge(without)
  return merge(ranges).flatMap(({ first, last }) => {
    const left: Range[] = []
    let from = first
    for (const hole of gone) {
      if (hole.last < from || hole.first > last) continue
      if (hole.first > from) left.push({ first: from, last: hole.first - 1 })
      from = hole.last + 1
    }
    if (from <= last) left.push({ first: from, last })
    return left
  })
}

/** `ranges` are in order and do not touch, as `merge` and `subtract` give them. */
export function contains(ranges: readonly Range[], address: number): boolean {
  let low = 0
  let high = ranges.length - 1
  while (low <= high) {
    const middle = (low + high) >> 1
    const range = ranges[middle]
    if (range === undefined) return false
    if (address < range.first) high = middle - 1
    else if (address > range.last) low = middle + 1
    else return true
  }
  return false
}
