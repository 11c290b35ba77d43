import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { eventKinds } from './event-kinds.ts'

const root = join(import.meta.dirname, '../..')

test('every kind of event that an agent knows is told by it', () => {
  const files = globSync('src/agent/**/*.ts', { cwd: root, exclude: ['**/*.test.ts', '**/event-kinds.ts'] })
  const source = files.map((file) => readFileSync(join(root, file), 'utf8')).join('\n')
  const unused = Object.keys(eventKinds).filter((name) => !new RegExp(`eventKinds\\.${name}\\b`).test(source))
  assert.deepEqual(unused, [])
})

test('the page on events lists exactly the kinds that agents tell', () => {
  const page = readFileSync(join(root, 'docs/events.md'), 'utf8')
  const section = page.split(/^## /m).find((part) => part.startsWith('Told by agents')) ?? ''
  const listed = [...section.matchAll(/^\| `([a-z.-]+)`/gm)].map(([, kind]) => kind)
  assert.deepEqual(listed.sort(), Object.values(eventKinds).sort())
})
