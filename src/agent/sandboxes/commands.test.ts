import assert from 'node:assert/strict'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { after, test } from 'node:test'
import { lackingAgent, startAgent } from '../../guest/channel/testing.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { Commands } from './commands.ts'

const skip = lackingAgent() ?? false
const { signal } = new AbortController()
const agent = skip === false ? startAgent() : undefined
after(() => agent?.[Symbol.asyncDispose]())

async function open() {
  if (!agent) throw new Error('no agent')
  return { channel: await agent.connect(), commands: new Commands(systemClock) }
}

test('a command that nobody is joined to takes input and signals, and its output is kept', { skip }, async () => {
  const { channel, commands } = await open()
  const letGo = new AbortController()
  const script = 'echo up; read a; echo "got $a"; exec sleep 1000'
  const { pid, exited } = await commands.start(
    channel,
    { command: ['sh', '-c', script], env: {}, detached: true },
    { signal: letGo.signal },
  )
  letGo.abort(new Error('let go'))
  await assert.rejects(exited)
  await commands.write(channel, { pid, data: Buffer.from('this\n'), end: false }, { signal })
  const joined = await commands.attach(channel, { pid, from: 3 }, { signal })
  assert.equal(String((await once(joined.stdout, 'data'))[0]), 'got this\n')
  // Somebody is joined now, and it is signalled all the same.
  await commands.signal(channel, { pid, signal: 'SIGTERM' }, { signal })
  assert.deepEqual(await joined.exited, { code: 143 })
  await assert.rejects(commands.signal(channel, { pid, signal: 'SIGTERM' }, { signal }), {
    code: 'conflict',
    message: new RegExp(`command with process id ${pid} has ended already, with code 143`),
  })
})

test('input after the last is refused with a reason, and so is a command that is not there', { skip }, async () => {
  const { channel, commands } = await open()
  const running = await commands.start(channel, { command: ['sleep', '1000'], env: {}, detached: true }, { signal })
  const { pid } = running
  await commands.write(channel, { pid, data: Buffer.from('last'), end: true }, { signal })
  await assert.rejects(commands.write(channel, { pid, data: Buffer.from('more'), end: false }, { signal }), {
    code: 'conflict',
    message: new RegExp(`standard input of the command with process id ${pid} is closed`),
  })
  await commands.signal(channel, { pid, signal: 'SIGKILL' }, { signal })
  assert.equal(await text(running.stdout), '')
  await assert.rejects(commands.signal(channel, { pid: 999_999, signal: 'SIGTERM' }, { signal }), { code: 'not_found' })
})

test('whose input was closed before the way in was opened is refused in the same words', { skip }, async () => {
  const { channel, commands } = await open()
  const letGo = new AbortController()
  const command = ['sleep', '1000']
  const started = await commands.start(channel, { command, env: {}, detached: true }, { signal: letGo.signal })
  started.stdin.end()
  letGo.abort(new Error('let go'))
  await assert.rejects(started.exited)
  await assert.rejects(
    commands.write(channel, { pid: started.pid, data: Buffer.from('more'), end: false }, { signal }),
    { code: 'conflict', message: /is closed, and takes no more/ },
  )
  await commands.signal(channel, { pid: started.pid, signal: 'SIGKILL' }, { signal })
})

test('several are joined to one command: all hear it, each may write to it, all hear its end', { skip }, async () => {
  const { channel, commands } = await open()
  const script = 'echo up; read a; echo "one $a"; read b; echo "two $b" >&2; exit 5'
  const command = { command: ['sh', '-c', script], env: {}, detached: true }
  const starter = await commands.start(channel, command, { signal })
  const { pid } = starter
  const leaving = new AbortController()
  const joined = await Promise.all([
    commands.attach(channel, { pid, from: 0 }, { signal }),
    commands.attach(channel, { pid, from: 0 }, { signal }),
    commands.attach(channel, { pid, from: 0 }, { signal: leaving.signal }),
  ])
  leaving.abort(new Error('let go'))
  await assert.rejects(joined[2].exited)
  const all = [starter, joined[0], joined[1]]
  const heard = all.map(({ stdout, stderr }) => Promise.all([text(stdout), stderr && text(stderr)]))
  starter.stdin.write('x\n')
  joined[1].stdin.write('y\n')
  for (const said of await Promise.all(heard)) assert.deepEqual(said, ['up\none x\n', 'two y\n'])
  for (const { exited } of all) assert.deepEqual(await exited, { code: 5 })
  const after = await commands.attach(channel, { pid, from: 0 }, { signal })
  assert.equal(await text(after.stdout), 'up\none x\n')
})

test('a command ends with whoever started it, and the others hear that', { skip }, async () => {
  const { channel, commands } = await open()
  const leaving = new AbortController()
  const command = { command: ['sh', '-c', 'echo up; exec sleep 1000'], env: {} }
  const starter = await commands.start(channel, command, { signal: leaving.signal })
  const joined = await commands.attach(channel, { pid: starter.pid, from: 0 }, { signal })
  assert.equal(String((await once(joined.stdout, 'data'))[0]), 'up\n')
  leaving.abort(new Error('gone'))
  assert.deepEqual(await joined.exited, { code: 137 })
})
