import { formatParts } from '../expand.ts'
import { addStep, type Reading } from './reading.ts'
import type { Instruction } from './split-instructions.ts'
import { findOpenQuote, splitWords, type Word } from './words.ts'

const variable = /^[A-Za-z_][\w.-]*$/

/** `ENV name=value …`, or `ENV name value` with all the rest as the value. All see the variables of before the line. */
export function readEnv(instruction: Instruction, reading: Reading): void {
  const { arguments: given, position } = instruction
  const { mistakes } = reading
  const { scope } = reading.stage
  const { text } = given
  const words = splitWords(text)
  const [first] = words
  if (first === undefined) {
    mistakes.add(position, 'ENV lacks what to set, such as NAME=value')
    return
  }
  const open = findOpenQuote(text)
  if (open !== undefined) {
    mistakes.add(given.at(open), `this quote ${text.charAt(open)} is not closed`)
    return
  }
  const pairs = first.text.includes('=')
    ? words.map((word) => assignment(word))
    : [{ name: first.text, value: text.slice(first.start + first.text.length).trim(), start: first.start, offset: 0 }]
  const found = pairs.map(({ name, value, start, offset }) => {
    if (value === undefined) mistakes.add(given.at(start), `"${name}" has no value; write ${name}=value`)
    else if (name === '') mistakes.add(given.at(start), 'a name is missing before the "="')
    else if (value === '' && !first.text.includes('='))
      mistakes.add(given.at(start), `"${name}" has no value; write ${name}=value`)
    const from = first.text.includes('=') ? start + offset : text.length - (value?.length ?? 0)
    return { name, parts: scope.resolve(value ?? '', (at) => given.at(from + at), mistakes) }
  })
  for (const { name, parts } of found) scope.setEnv(name, parts)
  addStep(reading, instruction, {
    kind: 'env',
    values: Object.fromEntries(found.map(({ name, parts }) => [name, formatParts(parts)])),
  })
}

/** `ARG name[=default] …`. */
export function readArg(instruction: Instruction, reading: Reading): void {
  const { arguments: given, position } = instruction
  const { mistakes } = reading
  const { scope } = reading.stage
  const words = splitWords(given.text)
  if (words.length === 0) mistakes.add(position, 'ARG lacks a name, such as ARG VERSION or ARG VERSION=1')
  for (const { name, value, start, offset } of words.map((word) => assignment(word))) {
    if (!variable.test(name)) mistakes.add(given.at(start), `"${name}" is not the name of a variable`)
    const parts =
      value === undefined ? undefined : scope.resolve(value, (at) => given.at(start + offset + at), mistakes)
    scope.declare(name, parts)
  }
}

function assignment({ text, start }: Word): { name: string; value: string | undefined; start: number; offset: number } {
  const equals = text.indexOf('=')
  if (equals < 0) return { name: text, value: undefined, start, offset: 0 }
  return { name: text.slice(0, equals), value: text.slice(equals + 1), start, offset: equals + 1 }
}
