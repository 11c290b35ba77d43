import type { InspectedImage } from '../../blocks/operations/inspect.ts'
import { formatSize } from '../../model/quantity.ts'

const columns = 128
const mostLines = 32
const mostRuns = 40

/** Where an image has data and where zeros: as a picture, then run by run, the longest of them when there are many. */
export function drawMap({
  name,
  chunks,
  chunkBytes,
  runs,
}: Pick<InspectedImage, 'name' | 'chunks' | 'chunkBytes' | 'runs'>): string {
  const perCell = Math.max(1, Math.ceil(chunks / (columns * mostLines)))
  const cells = new Uint32Array(Math.ceil(chunks / perCell))
  for (const { kind, first, count } of runs)
    if (kind === 'data')
      for (let number = first; number < first + count; number++) {
        const cell = Math.floor(number / perCell)
        cells[cell] = (cells[cell] ?? 0) + 1
      }
  const picture = [...cells].map((data) => (data === 0 ? '.' : data === perCell ? '#' : '+')).join('')
  const lines = picture.match(new RegExp(`.{1,${columns}}`, 'g')) ?? []
  const shown = runs.length <= mostRuns ? runs : [...runs].sort((a, b) => b.count - a.count).slice(0, mostRuns)
  const list = [...shown]
    .sort((a, b) => a.first - b.first)
    .map(
      ({ kind, first, count }) =>
        `  ${kind.padEnd(4)}  at ${formatSize(first * chunkBytes)}, ${formatSize(count * chunkBytes)}\n`,
    )
  const legend = `${name}: one sign for ${perCell === 1 ? 'a chunk' : `${perCell} chunks`} of ${formatSize(chunkBytes)}; # data, + some of it, . zeros\n`
  const more = runs.length > shown.length ? `the ${shown.length} longest of ${runs.length} runs:\n` : ''
  return `${legend}${lines.map((line) => `  ${line}\n`).join('')}${more}${list.join('')}`
}
