import { type FileHandle, open, rename } from 'node:fs/promises'
import { pageBytes, type Run } from './mapping.ts'
import { type PagesFile, writeRuns } from './pages-file.ts'

/** A run of pages, and where they come from: the file that lies above, or the one beneath. */
interface Piece extends Run {
  isAbove: boolean
  /** Page of that file. */
  at: number
}

const stepBytes = 1024 * 1024

/** Makes one file of two: the pages of `above`, and those of `beneath` that it does not have. */
export async function mergePages(above: PagesFile, beneath: PagesFile, into: string): Promise<void> {
  const pieces = piecesOf(above.runs, beneath.runs)
  await using upper = await open(above.path, 'r')
  await using lower = await open(beneath.path, 'r')
  await using target = await open(`${into}.part`, 'w', 0o600)
  const step = Buffer.allocUnsafeSlow(stepBytes)
  let to = 0
  for (const { count, isAbove, at } of pieces) {
    await copy(isAbove ? upper : lower, at * pageBytes, target, to, count * pageBytes, step)
    to += count * pageBytes
  }
  await rename(`${into}.part`, into)
  writeRuns(into, joined(pieces))
}

/** In the order of memory. */
function piecesOf(above: readonly Run[], beneath: readonly Run[]): Piece[] {
  const upper: Piece[] = placed(above, true)
  const pieces: Piece[] = []
  let next = 0
  for (const lower of placed(beneath, false)) {
    let { first, at } = lower
    const end = lower.first + lower.count
    while (next < upper.length && (upper[next] as Piece).first < first) pieces.push(upper[next++] as Piece)
    // What came last may reach into this one.
    const last = pieces.at(-1)
    const covered = last?.isAbove ? Math.max(0, Math.min(end, last.first + last.count) - first) : 0
    first += covered
    at += covered
    for (; next < upper.length && (upper[next] as Piece).first < end; next += 1) {
      const over = upper[next] as Piece
      if (over.first > first) pieces.push({ first, count: over.first - first, isAbove: false, at })
      pieces.push(over)
      const past = Math.min(end, over.first + over.count)
      at += past - first
      first = past
    }
    if (first < end) pieces.push({ first, count: end - first, isAbove: false, at })
  }
  return [...pieces, ...upper.slice(next)]
}

function placed(runs: readonly Run[], isAbove: boolean): Piece[] {
  let at = 0
  return runs.map(({ first, count }) => {
    const piece = { first, count, isAbove, at }
    at += count
    return piece
  })
}

function joined(pieces: readonly Run[]): Run[] {
  const runs: Run[] = []
  for (const { first, count } of pieces) {
    const last = runs.at(-1)
    if (last && last.first + last.count === first) last.count += count
    else runs.push({ first, count })
  }
  return runs
}

async function copy(
  from: FileHandle,
  fromOffset: number,
  to: FileHandle,
  toOffset: number,
  length: number,
  step: Buffer,
): Promise<void> {
  for (let done = 0; done < length; ) {
    const wanted = Math.min(stepBytes, length - done)
    const { bytesRead } = await from.read(step, 0, wanted, fromOffset + done)
    if (bytesRead === 0) throw new Error('a file of pages is shorter than it should be')
    await to.write(step, 0, bytesRead, toOffset + done)
    done += bytesRead
  }
}
