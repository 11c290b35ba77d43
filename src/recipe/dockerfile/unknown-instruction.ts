import { closest } from '../../kit/nearest.ts'
import { instructions } from './instructions.ts'
import type { Instruction } from './split-instructions.ts'

export function unknownInstruction({ keyword }: Instruction): string {
  const known = ['FROM', ...Object.keys(instructions)]
  const near = closest(keyword, known)
  const shown = keyword.length > 40 ? `${keyword.slice(0, 40)}…` : keyword
  const hint = near === undefined ? `the instructions are ${known.join(', ')}` : `did you mean ${near}?`
  return `"${shown}" is not an instruction; ${hint}`
}
