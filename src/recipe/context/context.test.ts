import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { test } from 'node:test'
import { extract } from 'tar-stream'
import type { PlacedStep } from '../recipe.ts'
import { matchPattern } from './match-pattern.ts'
import { packContext } from './pack-context.ts'
import { selectSource } from './select-source.ts'
import type { ContextEntry } from './tree.ts'
import { walkContext } from './walk-context.ts'

async function makeContext(files: Record<string, string>): Promise<{ path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), 'tutti-context-'))
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(path, name)), { recursive: true })
    if (text.startsWith('→')) await symlink(text.slice(1), join(path, name))
    else await writeFile(join(path, name), text)
  }
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) }
}

const copy = (...sources: string[]): PlacedStep => ({
  step: { kind: 'copy', sources, to: '/x/', unpack: false },
  place: 'Dockerfile:3',
  text: 'COPY',
})

async function packed(directory: string, ...sources: string[]): Promise<string[]> {
  const context = await packContext(directory, [copy(...sources)])
  assert.ok(context)
  const names: string[] = []
  const entries = extract()
  context.stream.pipe(entries)
  for await (const entry of entries) {
    names.push(entry.header.name)
    entry.resume()
  }
  return names
}

test('patterns match as in Docker', () => {
  const cases: [string, string, boolean][] = [
    ['*.txt', 'a.txt', true],
    ['*.txt', 'a/b.txt', false],
    ['a?c', 'abc', true],
    ['a?c', 'a/c', false],
    ['[a-c]x', 'bx', true],
    ['[^a-c]x', 'bx', false],
    ['\\*', '*', true],
    ['\\*', 'a', false],
    ['a.b', 'axb', false],
    ['[\\]]', ']', true],
  ]
  for (const [pattern, text, expected] of cases)
    assert.equal(matchPattern(pattern)?.test(text), expected, `${pattern} ${text}`)
  for (const broken of ['[', '[]', '[a', 'a\\', '[b-a]', '[-a]']) assert.equal(matchPattern(broken), undefined, broken)
})

test('a source names a file, the contents of a directory, what a pattern matches, or nothing', async () => {
  await using context = await makeContext({
    'a.txt': '1',
    'b.txt': '2',
    'd/x': '3',
    'd/e/y': '4',
    link: '→d/x',
    dir: '→d',
  })
  const { tree } = await walkContext(context.path)
  const names = (source: string) =>
    selectSource(tree, source).map(({ name, found }) =>
      found.kind === 'file' ? name : [name, ...found.entries.map(({ below }) => below)],
    )
  assert.deepEqual(names('a.txt'), ['a.txt'])
  assert.deepEqual(names('/a.txt'), ['a.txt'])
  assert.deepEqual(names('./d/../a.txt'), ['a.txt'])
  assert.deepEqual(names('*.txt'), ['a.txt', 'b.txt'])
  assert.deepEqual(names('d'), [['d', 'e', 'e/y', 'x']])
  assert.deepEqual(names('d/'), [['d', 'e', 'e/y', 'x']])
  assert.deepEqual(names('d/*'), [['e', 'y'], 'x'])
  assert.deepEqual(names('.'), [['', 'a.txt', 'b.txt', 'd', 'd/e', 'd/e/y', 'd/x', 'dir', 'link']])
  assert.deepEqual(names('link'), ['link'])
  assert.deepEqual(names('dir'), [['dir', 'e', 'e/y', 'x']])
  assert.deepEqual(names('dir/x'), ['x'])
  assert.deepEqual(names('nothing'), [])
  assert.throws(() => names('../x'), /"\.\.\/x" lies outside of the build context/)
})

test('links in a context lead nowhere else, and a circle of them nowhere', () => {
  const link = (path: string, target: string): [string, ContextEntry] => [
    path,
    { path, type: 'link', mode: 0o777, size: 0, changedAt: 0, target },
  ]
  const tree = new Map([link('a', 'b'), link('b', 'a'), link('out', '../../etc/passwd'), link('root', '/')])
  assert.deepEqual(selectSource(tree, 'a'), [])
  assert.deepEqual(selectSource(tree, 'out'), [])
  assert.equal(selectSource(tree, 'root')[0]?.found.kind, 'directory')
})

test('only what is copied is sent, without what .dockerignore hides', async () => {
  await using context = await makeContext({
    '.dockerignore': '# hidden\nnode_modules\n*.log\n!keep.log\ndeep/*\n!deep/kept\n',
    'node_modules/x/index.js': '',
    'app/main.py': 'x',
    'app/a.log': '',
    'a.log': '',
    'keep.log': '',
    'deep/kept/file': '1',
    'deep/gone': '2',
    'README.md': '',
  })
  assert.deepEqual(
    await packed(context.path, 'app'),
    ['app/', 'app/a.log', 'app/main.py'].map((name) => name.replace(/\/$/, '')),
  )
  assert.deepEqual(
    (await packed(context.path, '.')).map((name) => name.replace(/\/$/, '')),
    [
      '.dockerignore',
      'README.md',
      'app',
      'app/a.log',
      'app/main.py',
      'deep',
      'deep/kept',
      'deep/kept/file',
      'keep.log',
    ],
  )
  await assert.rejects(
    packContext(context.path, [copy('a.log')]),
    /Dockerfile:3: cannot copy "a\.log": it is hidden by \.dockerignore/,
  )
  await assert.rejects(
    packContext(context.path, [copy('b')]),
    /Dockerfile:3: cannot copy "b": there is nothing of that name/,
  )
  await assert.rejects(
    packContext(context.path, [copy('../b'), copy('b')]),
    /Dockerfile:3: "\.\.\/b" lies outside of the build context; Dockerfile:3: cannot copy "b"/,
  )
  await assert.rejects(packContext(join(context.path, 'no'), [copy('b')]), /there is no such directory/)
  assert.equal(await packContext(context.path, []), undefined)
})

test('the same files give the same archive', async () => {
  await using context = await makeContext({ b: '1', a: '2', 'c/d': '' })
  const once = async () => buffer((await packContext(context.path, [copy('.')]))?.stream ?? Readable.from([]))
  assert.deepEqual(await once(), await once())
})
