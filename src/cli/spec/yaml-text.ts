import { Alias, type Document, isMap, isNode, isScalar, isSeq, LineCounter, type Node, parseAllDocuments } from 'yaml'
import type { FaultPlace } from '../../model/fault.ts'
import type { Explained } from './explain.ts'
import { SpecFault } from './spec-fault.ts'

/** A spec is some kilobytes. The YAML parser's time grows faster than its input's length, so more is not given to it. */
export const maxSpecBytes = 512 * 1024
export const maxMistakes = 100
/** Deeper than anything that means something; what is deeper would exhaust the stack. */
const maxDepth = 100

/** The documents of a YAML text, and where in it everything stands. */
export interface YamlText {
  documents: Document[]
  /** `prefix` is the path of the value that the mistake was found in. */
  placeOf(document: Document, prefix: PropertyKey[], mistake: Explained): FaultPlace
  fail(places: readonly FaultPlace[]): SpecFault
}

/**
 * Reads a YAML or JSON text (JSON needs no reader of its own: it is YAML). Throws a SpecFault for what is no YAML, has a
 * key twice, or is larger or deeper than `what` can be.
 */
export function readYaml(text: string, file: string, what: string): YamlText {
  const sources = new Map([[file, text]])
  const fail = (places: readonly FaultPlace[]) => new SpecFault(places.slice(0, maxMistakes), sources)
  if (Buffer.byteLength(text) > maxSpecBytes)
    throw fail([
      { file, message: `it is over ${maxSpecBytes / 1024} KiB, which no ${what} needs; is it the right file?` },
    ])
  const tooDeep = findTooDeep(text)
  if (tooDeep) throw fail([{ file, ...tooDeep, message: `this is nested more than ${maxDepth} levels deep` }])
  const lines = new LineCounter()
  const documents = parse(text, lines, file, fail)
  const broken = documents.flatMap(({ errors }) => errors.map((error) => syntaxPlace(error, lines, file)))
  if (broken.length > 0) throw fail(broken)
  const duplicates = documents.flatMap((document) => duplicateKeys(document, lines, file))
  if (duplicates.length > 0) throw fail(duplicates)
  return { documents, fail, placeOf: (document, prefix, mistake) => toPlace(document, lines, file, prefix, mistake) }
}

function parse(text: string, lines: LineCounter, file: string, fail: (places: FaultPlace[]) => SpecFault): Document[] {
  try {
    // Keys are looked at afterwards: the parser's own look takes seconds for a long mapping.
    const parsed = parseAllDocuments(text, {
      lineCounter: lines,
      uniqueKeys: false,
      merge: true,
      prettyErrors: false,
      logLevel: 'error',
    })
    return Array.isArray(parsed) ? parsed : []
  } catch (error) {
    throw fail([
      { file, message: `it cannot be read as YAML: ${error instanceof Error ? error.message : String(error)}` },
    ])
  }
}

function syntaxPlace(error: Document['errors'][number], lines: LineCounter, file: string): FaultPlace {
  const { line, col } = lines.linePos(error.pos[0])
  const message = error.message.replace(/\s+/g, ' ').replace(/ at line \d+.*$/, '')
  return { file, line: Math.max(1, line), column: Math.max(1, col), message: `this is not YAML: ${message}` }
}

function duplicateKeys(document: Document, lines: LineCounter, file: string): FaultPlace[] {
  const places: FaultPlace[] = []
  const look = (node: unknown): void => {
    if (isSeq(node)) node.items.forEach(look)
    if (!isMap(node)) return
    const seen = new Set<string>()
    for (const { key, value } of node.items) {
      const name = isScalar(key) ? String(key.value) : undefined
      if (name !== undefined && name !== '<<') {
        if (seen.has(name)) {
          const position = isNode(key) ? nodePosition(key, lines) : undefined
          places.push({ file, ...position, message: `"${name}" stands here a second time` })
        }
        seen.add(name)
      }
      look(value)
    }
  }
  look(document.contents)
  return places
}

function toPlace(
  document: Document,
  lines: LineCounter,
  file: string,
  prefix: PropertyKey[],
  { path, at, message }: Explained,
): FaultPlace {
  return { file, ...positionOf(document, lines, [...prefix, ...path], at), path: path.map(String).join('.'), message }
}

/** Line and column of a path; of the nearest that exists when it does not. */
function positionOf(document: Document, lines: LineCounter, path: readonly PropertyKey[], at: Explained['at']) {
  let key: Node | undefined
  let node = resolve(document, document.contents)
  let found = 0
  for (const step of path) {
    const next = childOf(node, step)
    if (!next) break
    key = next.key ?? key
    node = resolve(document, next.value)
    found += 1
    // An alias stands elsewhere: what is wrong is pointed to where it is used.
    if (next.value instanceof Alias) {
      node = next.value
      break
    }
  }
  // What is missing from an entry of a list is missed where the entry begins; elsewhere at the key of what lacks it.
  const inList = found < path.length && found > 0 && typeof path[found - 1] === 'number'
  const atKey = found < path.length || at !== 'value'
  const target = inList ? (firstKey(node) ?? node) : atKey ? (key ?? firstKey(node) ?? node) : isNode(node) ? node : key
  return isNode(target) ? nodePosition(target, lines) : undefined
}

function childOf(node: unknown, step: PropertyKey): { key?: Node; value: unknown } | undefined {
  if (isSeq(node)) {
    const value = node.items[Number(step)]
    return value === undefined ? undefined : { value }
  }
  if (!isMap(node)) return undefined
  const pair = node.items.findLast(({ key }) => isScalar(key) && String(key.value) === String(step))
  return pair ? { ...(isNode(pair.key) ? { key: pair.key } : {}), value: pair.value } : undefined
}

function firstKey(node: unknown): Node | undefined {
  const key = isMap(node) ? node.items[0]?.key : undefined
  return isNode(key) ? key : undefined
}

function resolve(document: Document, node: unknown): unknown {
  return node instanceof Alias ? node.resolve(document) : node
}

function nodePosition(node: Node, lines: LineCounter): { line: number; column: number } | undefined {
  if (!node.range) return undefined
  const { line, col } = lines.linePos(node.range[0])
  return { line: Math.max(1, line), column: Math.max(1, col) }
}

export function byPlace(a: FaultPlace, b: FaultPlace): number {
  return (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0)
}

/** Brackets and indentation both nest; counted before the parser, which calls itself once per level, sees them. */
function findTooDeep(text: string): { line: number; column: number } | undefined {
  let brackets = 0
  const indents: number[] = []
  for (const [at, row] of text.split('\n').entries()) {
    const dashes = /^(?:\s*[-?:]\s)+/.exec(row)?.[0].match(/[-?:]/g)?.length ?? 0
    const indent = row.search(/\S/)
    if (indent >= 0) {
      while (indents.length > 0 && (indents.at(-1) ?? 0) >= indent) indents.pop()
      if (indents.push(indent) > maxDepth) return { line: at + 1, column: indent + 1 }
    }
    for (const [column, character] of [...row].entries()) {
      if (character === '[' || character === '{') brackets += 1
      else if ((character === ']' || character === '}') && brackets > 0) brackets -= 1
      if (brackets > maxDepth) return { line: at + 1, column: column + 1 }
    }
    if (dashes > maxDepth) return { line: at + 1, column: 1 }
  }
  return undefined
}
