import { Fault, type FaultPlace } from '../../model/fault.ts'

/** Mistakes in job files, with the files' text so that the lines can be shown. */
export class SpecFault extends Fault {
  /** Text by file name. */
  readonly sources: ReadonlyMap<string, string>

  constructor(places: readonly FaultPlace[], sources: ReadonlyMap<string, string>) {
    super('invalid', summary(places), { places })
    this.sources = sources
  }
}

function summary(places: readonly FaultPlace[]): string {
  const files = [...new Set(places.map(({ file }) => file))]
  const [only] = places
  if (places.length === 1 && only) return `${placeText(only)}: ${only.message}`
  return `${files.join(' and ')} ${files.length > 1 ? 'have' : 'has'} ${places.length} mistakes`
}

/** `web.yaml:4:11`, as far as it is known. */
export function placeText({ file, line, column, path }: FaultPlace): string {
  if (line === undefined && path !== undefined && path !== '') return `${file}: ${path}`
  return [file, line, column].filter((part) => part !== undefined).join(':')
}
