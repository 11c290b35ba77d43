import assert from 'node:assert/strict'
import { test } from 'node:test'
import { selectSource } from '../../recipe/context/select-source.ts'
import type { ContextEntry } from '../../recipe/context/tree.ts'
import { planCopy } from './plan-copy.ts'

const tree = new Map<string, ContextEntry>(
  ['f', 'g.txt', 'h.txt', 'd/', 'd/x', 'd/s/', 'd/s/y', 'e/'].map((name) => {
    const path = name.replace(/\/$/, '')
    return [path, { path, type: name.endsWith('/') ? 'directory' : 'file', mode: 0o644, size: 1, changedAt: 0 }]
  }),
)
const guest: Record<string, 'file' | 'directory'> = {
  '/': 'directory',
  '/etc': 'directory',
  '/etc/f': 'directory',
  '/file': 'file',
  '/app': 'directory',
}

async function plan(sources: string[], to: string, cwd = '/app'): Promise<string[]> {
  const selected = sources.flatMap((source) => selectSource(tree, source))
  const targets = await planCopy(selected, { to, cwd, what: async (path) => guest[path] })
  return targets
    .filter(({ entry, path }) => entry !== undefined || guest[path] === undefined)
    .map(({ path, entry }) => (entry ? `${entry.path}>${path}` : path))
}

test('everything goes where Docker puts it', async () => {
  const cases: [sources: string[], to: string, expected: string[]][] = [
    [['f'], '/new', ['f>/new']],
    [['f'], '/new/', ['/new', 'f>/new/f']],
    [['f'], '/a/b/c', ['/a', '/a/b', 'f>/a/b/c']],
    [['f'], '/app', ['f>/app/f']],
    [['f'], 'x', ['f>/app/x']],
    [['f'], './', ['f>/app/f']],
    [['f'], '.', ['f>/app/f']],
    [['f'], '/file', ['f>/file']],
    [['f', 'g.txt'], '/new/', ['/new', 'f>/new/f', 'g.txt>/new/g.txt']],
    [['*.txt'], '/new/', ['/new', 'g.txt>/new/g.txt', 'h.txt>/new/h.txt']],
    [['f', 'g.txt'], '/app', ['f>/app/f', 'g.txt>/app/g.txt']],
    [['d'], '/new', ['/new', 'd/s>/new/s', 'd/s/y>/new/s/y', 'd/x>/new/x']],
    [['d/'], '/app', ['d/s>/app/s', 'd/s/y>/app/s/y', 'd/x>/app/x']],
    [['d', 'f'], '/new/', ['/new', 'd/s>/new/s', 'd/s/y>/new/s/y', 'd/x>/new/x', 'f>/new/f']],
    [['d/*'], '/new/', ['/new', 'd/s/y>/new/y', 'd/x>/new/x']],
    [['e'], '/new', ['/new']],
    [['e'], '/', []],
    [['f'], '../up', ['f>/up']],
    [['f'], '../../../up', ['f>/up']],
  ]
  for (const [sources, to, expected] of cases) assert.deepEqual(await plan(sources, to), expected, `${sources} ${to}`)
})

test('what cannot be put anywhere is refused', async () => {
  await assert.rejects(
    plan(['f', 'g.txt'], '/new'),
    /several files go into a directory, and "\/new" does not end with "\/"/,
  )
  await assert.rejects(plan(['d'], '/file'), /"\/file" is a file in the image/)
  await assert.rejects(plan(['f'], '/file/'), /"\/file" is a file in the image/)
  await assert.rejects(plan(['f'], '/etc'), /cannot copy file "f" to "\/etc\/f", which is a directory/)
})
