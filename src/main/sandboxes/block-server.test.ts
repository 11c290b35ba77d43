import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { blockServerVersion } from '../../blocks/server/protocol.ts'
import { blockServerSocket } from '../../blocks/server/start.ts'
import { temporaryDirectory } from '../../blocks/testing.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { keepBlockServer } from './block-server.ts'

/** Answers as a server of another version would, until it is asked to stop. */
const other = `
import { createServer } from 'node:net'
import { createInterface } from 'node:readline'
const server = createServer((socket) => {
  createInterface({ input: socket }).on('line', (line) => {
    const { id, request } = JSON.parse(line)
    socket.write(JSON.stringify({ id, ok: request === 'list' ? ANSWER : {} }) + '\\n')
    if (request === 'stop') process.exit(0)
  })
})
server.listen(process.argv[2], () => console.log('ready'))
`

for (const [what, answer] of [
  ['that answers otherwise', '{ pid: process.pid, disks: "none" }'],
  [
    'of another version',
    `{ disks: [], memories: [], captures: [], newMemories: [], upstream: null, uploads: [],
       method: { memory: 'memfd', capture: 'none', lazy: 'none' }, pid: process.pid, version: ${blockServerVersion - 1} }`,
  ],
] as const)
  test(`a block server ${what} makes room for one of this version`, async () => {
    await using scratch = await temporaryDirectory()
    const { signal } = new AbortController()
    const directory = join(scratch.path, 'b')
    mkdirSync(directory, { mode: 0o700 })
    const program = join(scratch.path, 'other.mjs')
    writeFileSync(program, other.replace('ANSWER', answer))
    const old = spawn(process.execPath, [program, blockServerSocket(directory)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    try {
      await once(old.stdout, 'data')
      await using server = await keepBlockServer({ directory, clock: systemClock, signal })
      const { version, pid } = await server.ask('list', {}, { signal })
      assert.equal(version, blockServerVersion)
      assert.notEqual(pid, old.pid)
      await server.ask('stop', {}, { signal })
    } finally {
      old.kill('SIGKILL')
    }
  })
