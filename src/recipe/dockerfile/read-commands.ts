import { addStep, type Reading } from './reading.ts'
import type { Instruction } from './split-instructions.ts'
import { type Flag, readJsonForm, splitFlags } from './words.ts'

/** `RUN line` or `RUN ["program", "argument"]`; here-documents go to the shell, which knows them too. */
export function readRun(instruction: Instruction, reading: Reading): void {
  const { arguments: given, position } = instruction
  const { flags, rest } = splitFlags(given.text)
  for (const flag of flags) checkRunFlag(flag, instruction, reading)
  const line = given.text.slice(rest)
  if (line === '') {
    reading.mistakes.add(position, 'RUN lacks a command')
    return
  }
  const command =
    instruction.heredocs.length > 0 ? withHeredocs(line, instruction, reading) : readCommand(line, reading)
  const args = reading.scope.argsText()
  addStep(reading, instruction, { kind: 'run', command, ...(args === undefined ? {} : { args }) })
}

export function readCmd(instruction: Instruction, reading: Reading): void {
  if (instruction.arguments.text === '') {
    reading.mistakes.add(instruction.position, 'CMD lacks a command')
    return
  }
  reading.command = readCommand(instruction.arguments.text, reading)
}

export function readEntrypoint(instruction: Instruction, reading: Reading): void {
  if (instruction.arguments.text === '') {
    reading.mistakes.add(instruction.position, 'ENTRYPOINT lacks a command')
    return
  }
  reading.entrypoint = readCommand(instruction.arguments.text, reading)
  // What stood before was meant for another entry point.
  delete reading.command
}

export function readShell({ arguments: given, position }: Instruction, reading: Reading): void {
  const shell = readJsonForm(given.text)
  if (!shell || shell.length === 0)
    reading.mistakes.add(position, 'SHELL needs a list in double quotes, such as ["/bin/bash", "-c"]')
  else reading.shell = shell
}

/** Brackets that are not a list of strings are a line for the shell, as everywhere in Docker. */
function readCommand(text: string, reading: Reading): string | string[] {
  const words = readJsonForm(text)
  if (words) return words
  return reading.shell ? [...reading.shell, text] : text
}

/** A document alone is the script; otherwise the shell reads line and documents as they stand. */
function withHeredocs(line: string, { heredocs, position }: Instruction, reading: Reading): string | string[] {
  const [first] = heredocs
  const isScript = first !== undefined && heredocs.length === 1 && line === first.word
  if (isScript && first.lines[0]?.startsWith('#!'))
    reading.mistakes.add(
      position,
      `the here-document <<${first.name} begins with "${first.lines[0].slice(0, 60)}"; write the program before it, as in RUN python3 <<${first.name}`,
    )
  const script = isScript
    ? (first.word.includes('<<-') ? first.lines.map((each) => each.replace(/^\t+/, '')) : first.lines).join('\n')
    : [line, ...heredocs.flatMap(({ lines, name }) => [...lines, name])].join('\n')
  return reading.shell ? [...reading.shell, script] : script
}

function checkRunFlag({ name, value = '', start }: Flag, instruction: Instruction, reading: Reading): void {
  const position = instruction.arguments.at(start)
  if (name === 'mount') {
    const type = /(?:^|,)type=([^,]*)/.exec(value)?.[1] ?? 'bind'
    if (type === 'cache' || type === 'tmpfs')
      reading.notes.add(
        position,
        `--mount=type=${type} is an ordinary directory here: what is in it stays in the template`,
      )
    else reading.mistakes.add(position, `--mount=type=${type} is not supported; bring files with COPY`)
  } else if (name === 'network' || name === 'security') reading.notes.add(position, `--${name} changes nothing here`)
  else reading.mistakes.add(position, `RUN has no flag --${name}; it has --mount, --network and --security`)
}
