/** One measured figure beside what was asked for. */
export interface Figure {
  what: string
  reached: number
  unit: string
  /** Absent where nothing was asked for. */
  asked?: number
  /** Whether less or more is better. */
  better?: 'less' | 'more'
}

/** Prints figures as a table for people and as one line of JSON for programs. */
export function report(bench: string, figures: readonly Figure[]): void {
  console.table(
    figures.map(({ what, reached, unit, asked, better }) => ({
      what,
      reached: round(reached),
      unit,
      asked: asked ?? '',
      ...(asked === undefined ? {} : { met: (better === 'more' ? reached >= asked : reached <= asked) ? 'yes' : 'no' }),
    })),
  )
  console.log(JSON.stringify({ bench, figures }))
}

export function quantile(sorted: readonly number[], fraction: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * fraction))] ?? Number.NaN
}

export function sorted(values: readonly number[]): number[] {
  return [...values].sort((a, b) => a - b)
}

function round(value: number): number {
  return Math.round(value * 100) / 100
}
