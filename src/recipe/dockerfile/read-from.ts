import { formatParts, isKnown } from '../expand.ts'
import type { Reading } from './reading.ts'
import type { Instruction } from './split-instructions.ts'
import { splitFlags, splitWords } from './words.ts'

/** `FROM [--platform=…] IMAGE [AS name]`: once. */
export function readFrom({ position, arguments: given }: Instruction, reading: Reading): void {
  const { scope, mistakes } = reading
  if (reading.from !== undefined || reading.fromFailed) {
    const why =
      'this is a second FROM; a template is built in one stage, so build what the others make beforehand, or in RUN'
    mistakes.add(position, why)
    return
  }
  reading.fromFailed = true
  const { flags, rest } = splitFlags(given.text)
  for (const { name, value = '', start } of flags) {
    if (name !== 'platform') mistakes.add(given.at(start), `FROM has no flag --${name}; it has --platform`)
    else readPlatform(value, (message) => mistakes.add(given.at(start), message), reading)
  }
  const words = splitWords(given.text.slice(rest))
  const [image, as, name, more] = words
  const place = (offset: number) => given.at(rest + offset)
  if (image === undefined) {
    mistakes.add(position, 'FROM lacks the image to begin from, such as debian:12')
    return
  }
  if (as !== undefined && (as.text.toUpperCase() !== 'AS' || name === undefined || more !== undefined))
    mistakes.add(place(as.start), `after the image only "AS name" may stand, not "${as.text}"`)
  const parts = scope.resolve(image.text, (offset) => place(image.start + offset), mistakes)
  const reference = isKnown(parts) ? parts.join('') : formatParts(parts)
  scope.begin()
  if (reference === 'scratch')
    mistakes.add(
      place(image.start),
      'there is nothing to boot in "scratch"; begin from an image with a system in it, such as debian:12',
    )
  else if (/^$|[:@/]$/.test(reference) || !isKnown(parts))
    mistakes.add(
      place(image.start),
      `"${image.text}" names no image: give its variables with ARG before FROM, or with --build-arg`,
    )
  else reading.from = reference.slice(0, 1000)
}

function readPlatform(value: string, wrong: (message: string) => void, reading: Reading): void {
  if (/^\$\{?(BUILD|TARGET)PLATFORM\}?$/.test(value)) return
  const [os, arch, variant] = value.toLowerCase().split('/')
  const known: Record<string, 'amd64' | 'arm64'> = { amd64: 'amd64', x86_64: 'amd64', arm64: 'arm64', aarch64: 'arm64' }
  const found = arch !== undefined && Object.hasOwn(known, arch) ? known[arch] : undefined
  if (os !== 'linux' || found === undefined || (variant !== undefined && variant !== 'v8'))
    wrong(`platform "${value}" cannot be built; there are linux/amd64 and linux/arm64`)
  else reading.arch = found
}
