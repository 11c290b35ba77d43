import type { Mount } from '../recipe.ts'
import type { Position } from './places.ts'
import { readMount } from './read-mount.ts'
import { addStep, type Reading } from './reading.ts'
import type { Heredoc, Instruction } from './split-instructions.ts'
import { type Flag, readJsonForm, splitFlags } from './words.ts'

/** `RUN line` or `RUN ["program", "argument"]`; here-documents go to the shell, which knows them too. */
export function readRun(instruction: Instruction, reading: Reading): void {
  const { arguments: given, position } = instruction
  const { flags, rest } = splitFlags(given.text)
  const mounts = readMounts(flags, instruction, reading)
  const line = given.text.slice(rest)
  if (line === '') {
    reading.mistakes.add(position, 'RUN lacks a command')
    return
  }
  const command =
    instruction.heredocs.length > 0
      ? withHeredocs(line, instruction, reading)
      : readCommand(line, instruction.arguments.at(rest), reading)
  const args = reading.stage.scope.argsText()
  addStep(reading, instruction, {
    ...{ kind: 'run', command },
    ...(args === undefined ? {} : { args }),
    ...(mounts.length === 0 ? {} : { mounts }),
  })
}

export function readCmd(instruction: Instruction, reading: Reading): void {
  if (instruction.arguments.text === '') {
    reading.mistakes.add(instruction.position, 'CMD lacks a command')
    return
  }
  reading.stage.command = readCommand(instruction.arguments.text, instruction.arguments.at(0), reading)
}

export function readEntrypoint(instruction: Instruction, reading: Reading): void {
  if (instruction.arguments.text === '') {
    reading.mistakes.add(instruction.position, 'ENTRYPOINT lacks a command')
    return
  }
  reading.stage.entrypoint = readCommand(instruction.arguments.text, instruction.arguments.at(0), reading)
  // What stood before was meant for another entry point.
  delete reading.stage.command
}

export function readShell({ arguments: given, position }: Instruction, reading: Reading): void {
  const shell = readJsonForm(given.text)
  if (!shell || shell.length === 0)
    reading.mistakes.add(position, 'SHELL needs a list in double quotes, such as ["/bin/bash", "-c"]')
  else reading.stage.shell = shell
}

/** Brackets that are not a list of strings are a line for the shell, as everywhere in Docker. */
function readCommand(text: string, position: Position, reading: Reading): string | string[] {
  const words = readJsonForm(text)
  if (words) return words
  if (/^\[\s*['"]/.test(text) || /^\[\s*[\w./-]+\s*(,.*)?\]$/s.test(text))
    reading.notes.add(position, 'this is a line for the shell, since it is no list of strings in double quotes')
  return reading.stage.shell ? [...reading.stage.shell, text] : text
}

/** A document alone is the script; otherwise the shell reads line and documents as they stand. */
function withHeredocs(line: string, { heredocs }: Instruction, reading: Reading): string | string[] {
  const [first] = heredocs
  const isScript = first !== undefined && heredocs.length === 1 && line === first.word
  const script = !isScript
    ? [line, ...heredocs.flatMap(({ lines, name }) => [...lines, name])].join('\n')
    : documentText(first)
  // The interpreter that it names runs it, whatever SHELL says.
  if (isScript && script.startsWith('#!')) return asProgram(script)
  return reading.stage.shell ? [...reading.stage.shell, script] : script
}

/** The lines between the name and its end; `<<-` takes the tabs before them away. */
export function documentText({ word, lines }: Heredoc): string {
  return (/<<-/.test(word) ? lines.map((each) => each.replace(/^\t+/, '')) : lines).join('\n')
}

/** A line for the shell that makes a file of a script, runs it and ends as it does. */
function asProgram(script: string): string {
  let end = 'END'
  while (script.split('\n').includes(end)) end += '_'
  return [
    `script=$(mktemp) && cat > "$script" <<'${end}' && chmod 700 "$script" || exit 1`,
    script,
    end,
    '"$script"; code=$?; rm -f "$script"; exit "$code"',
  ].join('\n')
}

/** Of the flags only mounts mean anything here. */
function readMounts(flags: readonly Flag[], { arguments: given }: Instruction, reading: Reading): Mount[] {
  return flags.flatMap(({ name, value = '', start }) => {
    const position = given.at(start)
    if (name === 'mount') {
      const place = (offset: number) => given.at(start + name.length + 3 + offset)
      return readMount(reading.stage.scope.resolve(value, place, reading.mistakes), position, reading) ?? []
    }
    if (name === 'network' || name === 'security') reading.notes.add(position, `--${name} changes nothing here`)
    else reading.mistakes.add(position, `RUN has no flag --${name}; it has --mount, --network and --security`)
    return []
  })
}
