import { readArg, readEnv } from './read-assignments.ts'
import { readCmd, readEntrypoint, readRun, readShell } from './read-commands.ts'
import { readCopy } from './read-copy.ts'
import { readHealthcheck } from './read-healthcheck.ts'
import { readOnbuild } from './read-onbuild.ts'
import { readUser, readWorkdir } from './read-words.ts'
import type { Reading } from './reading.ts'
import type { Instruction } from './split-instructions.ts'

type Read = (instruction: Instruction, reading: Reading) => void

/** Every instruction but FROM has an answer; those that mean nothing for a machine are accepted, and said. */
export const instructions: Readonly<Record<string, Read>> = {
  ARG: readArg,
  RUN: readRun,
  COPY: (instruction, reading) => readCopy(instruction, reading, { unpack: false }),
  ADD: (instruction, reading) => readCopy(instruction, reading, { unpack: true }),
  ENV: readEnv,
  WORKDIR: readWorkdir,
  USER: readUser,
  CMD: readCmd,
  ENTRYPOINT: readEntrypoint,
  SHELL: readShell,
  HEALTHCHECK: readHealthcheck,
  EXPOSE: noted('every port of a sandbox can be reached through Tutti'),
  LABEL: noted('a template has tags and aliases instead'),
  MAINTAINER: noted('it says who wrote the file'),
  VOLUME: noted('the directory is on the disk of the sandbox like every other'),
  STOPSIGNAL: noted('a sandbox is ended as a machine'),
  ONBUILD: readOnbuild,
}

function noted(why: string): Read {
  return ({ keyword, position }, { notes }) => notes.add(position, `${keyword} changes nothing here: ${why}`)
}
