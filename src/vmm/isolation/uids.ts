/** Users `first` to `last` are to be had for programs that are to be nobody else's. */
export interface UidRange {
  first: number
  last: number
}

/** Nobody is given these: https://systemd.io/UIDS-GIDS/ */
const unused: UidRange = { first: 1_879_048_192, last: 2_147_352_575 }
/** What a container has is cut in halves; people and services have the lower one. */
const fewest = 1024

/**
 * Users of which each VM gets one, by what /proc/self/uid_map says that there are: on a machine those that no
 * distribution gives to anybody, in a container the upper ones of those that it has.
 */
export function spareUids(uidMap: string): UidRange | undefined {
  const ranges = uidMap
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number))
    .map(([first = 0, , count = 0]) => ({ first, last: first + count - 1 }))
  if (ranges.some(({ first, last }) => first <= unused.first && last >= unused.last)) return unused
  const [largest] = ranges.sort((a, b) => b.last - b.first - (a.last - a.first))
  if (largest === undefined || largest.last - largest.first < 2 * fewest) return undefined
  const middle = largest.first + Math.floor((largest.last - largest.first) / 2) + 1
  // 65534 is nobody, which others use as well.
  const last = Math.min(largest.last, middle <= nobody && largest.last >= nobody ? nobody - 1 : largest.last)
  return last - middle < fewest ? undefined : { first: middle, last }
}

const nobody = 65_534
