import { formatParts, type Part } from '../expand.ts'
import { addStep, type Reading } from './reading.ts'
import type { Instruction } from './split-instructions.ts'

/** `WORKDIR path`. */
export function readWorkdir(instruction: Instruction, reading: Reading): void {
  const path = readWord(instruction, reading, 'a directory, such as /app')
  if (path) addStep(reading, instruction, { kind: 'workdir', path: formatParts(path).slice(0, 4096) })
}

/** `USER name[:group]`. */
export function readUser(instruction: Instruction, reading: Reading): void {
  const user = readWord(instruction, reading, 'a user, such as nobody or 1000:1000')
  if (!user) return
  const text = formatParts(user)
  if (text.length > 64) reading.mistakes.add(instruction.position, 'the name of a user has at most 64 characters')
  else addStep(reading, instruction, { kind: 'user', user: text })
}

function readWord(
  { arguments: given, keyword, position }: Instruction,
  reading: Reading,
  what: string,
): Part[] | undefined {
  if (given.text === '') {
    reading.mistakes.add(position, `${keyword} lacks ${what}`)
    return undefined
  }
  return reading.stage.scope.resolve(given.text, given.at, reading.mistakes)
}
