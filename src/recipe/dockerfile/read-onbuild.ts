import { slicePlaced } from './places.ts'
import type { Reading } from './reading.ts'
import type { Instruction } from './split-instructions.ts'

/**
 * `ONBUILD INSTRUCTION …` is kept for stages of this file that begin from the stage. In Docker an image carries it on as
 * well; nothing begins from a template as from an image, so there it ends.
 */
export function readOnbuild(instruction: Instruction, { stage, mistakes }: Reading): void {
  const { arguments: given, position } = instruction
  const [, word = '', gap = ''] = /^(\S*)(\s*)/.exec(given.text) ?? []
  const keyword = word.toUpperCase()
  if (keyword === '') mistakes.add(position, 'ONBUILD lacks an instruction, such as ONBUILD COPY . /app')
  else if (['FROM', 'ONBUILD', 'MAINTAINER'].includes(keyword))
    mistakes.add(given.at(0), `${keyword} cannot follow ONBUILD`)
  else
    stage.triggers.push({
      ...instruction,
      keyword,
      position: given.at(0),
      arguments: slicePlaced(given, word.length + gap.length),
    })
}
