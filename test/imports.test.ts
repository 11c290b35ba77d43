import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { test } from 'node:test'

/**
 * Who may import whom: the table of docs/architecture.md as data. Control and agent meet only in `wire`; siblings do
 * not import siblings; only `main` chooses implementations.
 */
const mayImport: Record<string, readonly string[]> = {
  model: [],
  kit: [],
  placement: ['model'],
  wire: ['model', 'kit'],
  store: ['model', 'kit'],
  'store/sqlite': ['model', 'kit', 'store'],
  'store/memory': ['model', 'kit', 'store'],
  control: ['model', 'kit', 'wire', 'placement', 'store'],
  drivers: ['model', 'guest'],
  'drivers/process': ['model', 'kit', 'guest', 'drivers'],
  'drivers/container': ['model', 'kit', 'guest', 'drivers', 'images'],
  'drivers/fake': ['model', 'kit', 'guest', 'drivers'],
  guest: ['model', 'kit', 'wire'],
  images: ['model', 'kit'],
  recipe: ['model', 'kit'],
  blocks: ['model', 'kit'],
  vmm: ['model', 'kit'],
  'vmm/boot': ['model', 'kit', 'vmm'],
  'vmm/qemu': ['model', 'kit', 'vmm', 'vmm/boot'],
  'vmm/firecracker': ['model', 'kit', 'vmm', 'vmm/boot'],
  sandboxes: ['model', 'kit', 'guest', 'blocks', 'vmm'],
  build: ['model', 'kit', 'recipe', 'guest', 'blocks', 'vmm', 'images', 'sandboxes'],
  agent: ['model', 'kit', 'wire', 'drivers', 'guest', 'sandboxes', 'build'],
  contract: ['model'],
  http: ['model', 'kit'],
  api: ['model', 'kit', 'http', 'contract', 'control', 'guest', 'placement', 'store', 'wire'],
  client: ['model', 'contract', 'wire'],
  cli: ['model', 'kit', 'recipe', 'contract', 'client'],
}

/** What tests stand on lies beside what it tests, and like tests may know everybody. */
const isForTests = (path: string) => /(\.test|\/testing|\/test-driver|\/toy-cluster)\.ts$/.test(path)
const sources = globSync('src/**/*.ts').filter((path) => !isForTests(path))

test('every file imports only what its part may import', () => {
  const wrong: string[] = []
  for (const file of sources) {
    const part = partOf(file)
    if (part === 'main') continue
    const allowed = mayImport[part]
    assert.ok(allowed, `${file} lies in a part that the table does not know`)
    for (const target of importsOf(file)) {
      const other = partOf(target)
      if (other !== part && !allowed.includes(other))
        wrong.push(`${file} imports ${target}, and ${part} may not import ${other}`)
    }
  }
  assert.deepEqual(wrong, [])
})

test('no files import each other in a circle', () => {
  const graph = new Map(sources.map((file) => [file, importsOf(file, { valuesOnly: true })]))
  const done = new Set<string>()
  const visit = (file: string, path: readonly string[]): void => {
    assert.ok(!path.includes(file), `a circle: ${[...path.slice(path.indexOf(file)), file].join(' → ')}`)
    if (done.has(file)) return
    for (const target of graph.get(file) ?? []) visit(target, [...path, file])
    done.add(file)
  }
  for (const file of sources) visit(file, [])
})

test('time, randomness and the network come from outside', () => {
  const handedIn =
    /\bDate\.now\(|\bnew Date\(\)|\bMath\.random\(|(?<![.\w])setTimeout\(|(?<![.\w])setInterval\(|performance\.now\(/
  const mayTouch = /^src\/(main|cli)\/|^src\/kit\/(system|stepped)-/
  const wrong = sources.filter(
    (file) => !mayTouch.test(file) && handedIn.test(withoutComments(readFileSync(file, 'utf8'))),
  )
  assert.deepEqual(wrong, [])
})

test('the documentation names only paths that exist', () => {
  const wrong: string[] = []
  for (const page of ['README.md', 'CONTRIBUTING.md', ...globSync('docs/**/*.md')]) {
    for (const [, path] of readFileSync(page, 'utf8').matchAll(
      /`((?:src|test|bench|docs|tools|examples|guest|native)\/[\w./-]+)`/g,
    )) {
      if (path && globSync(path).length === 0) wrong.push(`${page} names ${path}`)
    }
  }
  assert.deepEqual(wrong, [])
})

/** The longest key of the table that the file lies under. */
function partOf(file: string): string {
  const folders = dirname(file).split('/').slice(1)
  for (let depth = folders.length; depth > 0; depth -= 1) {
    const part = folders.slice(0, depth).join('/')
    if (part in mayImport) return part
  }
  return folders[0] ?? ''
}

function importsOf(file: string, { valuesOnly = false } = {}): string[] {
  const text = withoutComments(readFileSync(file, 'utf8'))
  const found: string[] = []
  for (const [statement, path] of text.matchAll(
    /(?:import|export)\b[^'"`;]*?from\s*['"](\.[^'"]+)['"]|import\(\s*['"](\.[^'"]+)['"]\s*\)/g,
  )) {
    if (!path || (valuesOnly && /^(import|export)\s+type\b/.test(statement))) continue
    found.push(normalize(join(dirname(file), path)))
  }
  return found
}

function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/^\s*\/\/.*$/gm, '')
}
