import { readFile } from 'node:fs/promises'
import { text as readAll } from 'node:stream/consumers'
import { Fault } from '../model/fault.ts'
import { parseDuration } from '../model/quantity.ts'
import type { Cli } from './cli.ts'

/** Options as they come from the command line, read as what they mean. What is wrong with one is a usage error. */

type Options = Record<string, unknown>

export function textOption(options: Options, name: string): string | undefined {
  const value = options[name]
  return typeof value === 'string' ? value : undefined
}

export function textsOption(options: Options, name: string): string[] {
  const value = options[name]
  return Array.isArray(value) ? value.map(String) : []
}

export function flagOption(options: Options, name: string): boolean {
  return options[name] === true
}

export function countOption(options: Options, name: string): number | undefined {
  const text = textOption(options, name)
  if (text === undefined) return undefined
  if (/^\d{1,9}$/.test(text)) return Number(text)
  throw new Fault('invalid', `--${name} needs a whole number, not "${text}"`)
}

export function durationOption(options: Options, name: string): number | undefined {
  const text = textOption(options, name)
  if (text === undefined) return undefined
  const ms = parseDuration(text)
  if (ms !== undefined) return ms
  throw new Fault('invalid', `--${name} needs a duration such as 90s or 1h30m, not "${text}"`)
}

/** A share between 0 and 1, given as a percentage. */
export function shareOption(options: Options, name: string): number | undefined {
  const text = textOption(options, name)
  if (text === undefined) return undefined
  const percent = /^\d{1,3}(\.\d+)?%?$/.test(text) ? Number.parseFloat(text) : Number.NaN
  if (percent <= 100) return percent / 100
  const flag = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
  throw new Fault('invalid', `--${flag} needs a percentage such as 5%, not "${text}"`)
}

/** `key=value` words as a record. */
export function readPairs(option: string, words: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    words.map((word) => {
      const at = word.indexOf('=')
      if (at > 0) return [word.slice(0, at), word.slice(at + 1)]
      throw new Fault('invalid', `${option} needs key=value, not "${word}"`)
    }),
  )
}

/** A secret given as itself, or as `@FILE`, which keeps it out of the list of processes. */
export async function readSecretOption(value: string): Promise<string> {
  return value.startsWith('@') ? readSecretFile(value.slice(1)) : value
}

export async function readSecretFile(path: string, cli?: Cli): Promise<string> {
  if (path === '-' && cli) return (await readAll(cli.stdin)).trim()
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw new Fault('invalid', `cannot read a secret from ${path}: ${error.code ?? error.message}`)
  })
  return text.trim()
}
