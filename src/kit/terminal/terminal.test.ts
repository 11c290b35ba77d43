import assert from 'node:assert/strict'
import { text } from 'node:stream/consumers'
import { type TestContext, test } from 'node:test'
import { systemClock } from '../system-clock.ts'
import { spawnInTerminal, terminalsLacking } from './terminal.ts'

const lacking = terminalsLacking()
const options = lacking === undefined ? {} : { skip: lacking }

async function shell(t: TestContext, script: string) {
  const terminal = await spawnInTerminal({
    command: '/bin/sh',
    args: ['-c', script],
    env: { PATH: '/usr/bin:/bin', TERM: 'xterm' },
    cwd: '/',
    size: { columns: 100, rows: 30 },
    clock: systemClock,
  })
  t.after(() => terminal.kill('SIGKILL'))
  return terminal
}

test('a command sees a terminal of the size that was asked for', options, async (t) => {
  const terminal = await shell(t, 'test -t 0 && test -t 1 && stty size; exit 4')
  assert.equal(await text(terminal.stdout), '30 100\r\n')
  assert.deepEqual(await terminal.exited, { code: 4, signal: null })
})

test('a command that leaves somebody behind in its terminal still ends', options, async (t) => {
  const terminal = await shell(t, 'trap "" HUP; sleep 1000 & echo $!')
  const said = await text(terminal.stdout)
  assert.equal((await terminal.exited).code, 0)
  process.kill(Number(said), 'SIGKILL')
})

test('our end of a terminal is not passed on to commands', options, async (t) => {
  const terminal = await shell(t, 'ls -l /proc/self/fd')
  assert.doesNotMatch(await text(terminal.stdout), /ptmx/)
  await terminal.exited
})

test('the death of a command by a signal is told', options, async (t) => {
  const terminal = await shell(t, 'kill -9 $$')
  await text(terminal.stdout)
  assert.deepEqual(await terminal.exited, { code: null, signal: 'SIGKILL' })
})

test('letting go of the output gives the terminal back', options, async (t) => {
  const terminal = await shell(t, 'while echo on; do sleep 0.05; done')
  terminal.stdout.once('data', () => terminal.stdout.destroy())
  const { code, signal } = await terminal.exited
  assert.ok(signal === 'SIGHUP' || code !== 0, `code ${code}, signal ${signal}`)
})
