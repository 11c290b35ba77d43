import assert from 'node:assert/strict'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { after, test } from 'node:test'
import { lackingAgent, startAgent } from '../../guest/channel/testing.ts'
import { Commands } from './commands.ts'

const skip = lackingAgent() ?? false
const { signal } = new AbortController()
const agent = skip === false ? startAgent() : undefined
after(() => agent?.[Symbol.asyncDispose]())

async function open() {
  if (!agent) throw new Error('no agent')
  return { channel: await agent.connect(), commands: new Commands() }
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
