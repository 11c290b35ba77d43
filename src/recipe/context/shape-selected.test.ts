import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Selected, selectSource } from './select-source.ts'
import { excludeFiles, keepParents } from './shape-selected.ts'
import type { ContextEntry } from './tree.ts'

const entry = (path: string, type: ContextEntry['type'] = 'file'): ContextEntry => ({
  ...{ path, type, mode: 0o644, size: 0, changedAt: 0 },
})
const tree = new Map(
  [entry('a', 'directory'), entry('a/b', 'directory'), entry('a/b/c.txt'), entry('a/b/d.md'), entry('e.md')].map(
    (each) => [each.path, each],
  ),
)
/** What lies where, of all that was selected. */
const names = (selected: Selected[]) =>
  selected.flatMap(({ name, found }) => (found.kind === 'file' ? [name] : found.entries.map(({ below }) => below)))

test('what is excluded is left out below each source, directories with what is in them', () => {
  const left = (source: string, ...patterns: string[]) => names(excludeFiles(selectSource(tree, source), patterns))
  assert.deepEqual(left('.', '*.md'), ['a', 'a/b', 'a/b/c.txt', 'a/b/d.md'])
  assert.deepEqual(left('.', '**/*.md'), ['a', 'a/b', 'a/b/c.txt'])
  assert.deepEqual(left('.', 'a/b', '!a/b/d.md'), ['a', 'a/b/d.md', 'e.md'])
  assert.deepEqual(left('a/b', '*.md'), ['c.txt'])
  assert.deepEqual(left('*.md', '*.md'), [])
  assert.deepEqual(left('e.md'), ['e.md'])
})

test('parents that a source names are kept, or those after its pivot', () => {
  const kept = (source: string) => names(keepParents(selectSource(tree, source), (path) => entry(path, 'directory')))
  assert.deepEqual(kept('a/b/c.txt'), ['a', 'a/b', 'a/b/c.txt'])
  assert.deepEqual(kept('a/*/*.md'), ['a', 'a/b', 'a/b/d.md'])
  assert.deepEqual(kept('./a/b'), ['a', 'a/b', 'a/b/c.txt', 'a/b/d.md'])
  assert.deepEqual(kept('a/./b/c.txt'), ['b', 'b/c.txt'])
  assert.deepEqual(kept('./a/./b/'), ['b', 'b/c.txt', 'b/d.md'])
  assert.deepEqual(kept('e.md'), ['e.md'])
})
