import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { systemClock } from '../../kit/system-clock.ts'
import { systemRandom } from '../../kit/system-random.ts'
import { Fault } from '../../model/fault.ts'
import type { GuestChannel, StartRequest } from '../channel.ts'
import { connectGuest } from './connect.ts'
import { agentPath, lackingAgent, startAgent, type TestAgent } from './testing.ts'

const skip = lackingAgent() ?? false
const signal = AbortSignal.timeout(120_000)
const open = async (t: TestContext): Promise<{ agent: TestAgent; channel: GuestChannel }> => {
  const agent = startAgent()
  t.after(() => agent[Symbol.asyncDispose]())
  return { agent, channel: await agent.connect() }
}

async function run(channel: GuestChannel, request: Partial<StartRequest> & { command: string[] }, input?: string) {
  const execution = await channel.start({ env: {}, ...request }, { signal })
  execution.stdin.end(input)
  const [stdout, stderr] = await Promise.all([text(execution.stdout), execution.stderr && text(execution.stderr)])
  return { stdout, stderr, pid: execution.pid, ...(await execution.exited) }
}

async function text(stream: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}

const fault = (code: string, message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof Fault, String(error))
  assert.equal(error.code, code)
  assert.match(error.message, message)
  return true
}

test('a command gets its input, and its output, errors and exit code come back', { skip }, async (t) => {
  const { channel } = await open(t)
  const ran = await run(channel, { command: ['sh', '-c', 'cat; echo oh >&2; exit 3'] }, 'hello')
  assert.deepEqual({ ...ran, pid: 0 }, { stdout: 'hello', stderr: 'oh\n', code: 3, pid: 0 })
})

test('a command has the environment and directory that were asked for', { skip }, async (t) => {
  const { channel } = await open(t)
  const ran = await run(channel, { command: ['sh', '-c', 'echo $A-$USER; pwd'], env: { A: 'b c' }, cwd: '/usr' })
  assert.match(ran.stdout, /^b c-\w+\n\/usr\n$/)
})

test('what identify says of commands holds for those that say nothing', { skip }, async (t) => {
  const { channel } = await open(t)
  const identity = { generation: 'g', entropy: randomBytes(32), now: 0, hostname: 'h', machineId: 'a'.repeat(32) }
  await channel.identify(
    { ...identity, env: { SECRET: 'x', A: '1' }, network: null, fresh: true, cwd: '/usr/bin' },
    { signal },
  )
  const ran = await run(channel, { command: ['sh', '-c', 'echo $SECRET$A; pwd'], env: { A: '2' } })
  assert.equal(ran.stdout, 'x2\n/usr/bin\n')
})

test('a command that a signal ends has 128 and its number as code', { skip }, async (t) => {
  const { channel } = await open(t)
  const execution = await channel.start({ command: ['sleep', '1000'], env: {} }, { signal })
  execution.kill('SIGTERM')
  assert.deepEqual(await execution.exited, { code: 143 })
  assert.throws(() => execution.kill('SIGNONE'), fault('invalid', /no signal "SIGNONE"/))
})

test('aborting kills the command', { skip }, async (t) => {
  const { channel } = await open(t)
  const abort = new AbortController()
  const execution = await channel.start(
    { command: ['sh', '-c', 'sleep 1000; true'], env: {} },
    { signal: abort.signal },
  )
  abort.abort()
  assert.deepEqual(await execution.exited, { code: 137 })
})

test('what cannot be started is said in a sentence', { skip }, async (t) => {
  const { channel } = await open(t)
  const cases: [Partial<StartRequest> & { command: string[] }, RegExp][] = [
    [{ command: ['nonesuch'] }, /^there is no program "nonesuch" in the guest's .*\/usr\/bin/],
    [{ command: ['/no/such'] }, /^there is no program "\/no\/such" in the guest$/],
    [{ command: ['/etc/passwd'] }, /^"\/etc\/passwd" is not executable$/],
    [{ command: ['/usr'] }, /^"\/usr" is a directory, not a program$/],
    [{ command: ['true'], user: 'nobody-here' }, /^there is no user "nobody-here" in the guest's \/etc\/passwd$/],
    [{ command: ['true'], user: 'root:nogroup-here' }, /^there is no group "nogroup-here"/],
    [{ command: ['true'], cwd: '/no/where' }, /^there is no directory "\/no\/where" in the guest to run "true" in$/],
    [{ command: ['true'], cwd: 'here' }, /must be an absolute path/],
    [{ command: [] }, /^the command is empty/],
    [{ command: ['true'], env: { '': 'x' } }, /entry without a name/],
    [{ command: ['x'.repeat(2 ** 20)] }, /has \d+ bytes, of at most/],
  ]
  for (const [request, sentence] of cases)
    await assert.rejects(channel.start({ env: {}, ...request }, { signal }), fault('invalid', sentence))
})

test('a command runs as another user, with that user’s groups', { skip: skip || notRoot() }, async (t) => {
  const { channel } = await open(t)
  assert.match((await run(channel, { command: ['id'], user: 'nobody' })).stdout, /^uid=65534\(nobody\)/)
  assert.match((await run(channel, { command: ['id'], user: '1234:4321' })).stdout, /^uid=1234 gid=4321/)
  const own = await run(channel, { command: ['sh', '-c', 'echo again > /dev/stdout'], user: 'nobody', cwd: '/' })
  assert.deepEqual([own.stdout, own.code], ['again\n', 0])
})

test('arguments and environment may be long', { skip }, async (t) => {
  const { channel } = await open(t)
  const long = 'y'.repeat(100_000)
  const ran = await run(channel, { command: ['sh', '-c', 'echo "$1$BIG" | wc -c', 'sh', long], env: { BIG: long } })
  assert.equal(ran.stdout.trim(), '200001')
})

test('a terminal has the size that it is given, and is told of a new one', { skip }, async (t) => {
  const { channel } = await open(t)
  const execution = await channel.start(
    {
      command: ['sh', '-c', 'trap "stty size" WINCH; stty size; while read line; do echo "<$line>"; done; stty size'],
      env: {},
      terminal: { columns: 91, rows: 33 },
    },
    { signal },
  )
  assert.equal(execution.stderr, undefined)
  let seen = ''
  const until = async (wanted: RegExp) => {
    while (!wanted.test(seen)) {
      const [chunk] = (await Promise.race([once(execution.stdout), sleep(10_000, ['timed out'])])) as [unknown]
      assert.notEqual(chunk, 'timed out', `${wanted} is not in ${JSON.stringify(seen)}`)
      seen += String(chunk)
    }
  }
  await until(/33 91\r\n/)
  execution.stdin.write('typed\n')
  await until(/typed\r\n<typed>\r\n/)
  execution.resize({ columns: 44, rows: 22 })
  execution.stdin.write('more\n')
  await until(/22 44\r\n/)
  execution.stdin.end()
  execution.stdout.resume()
  assert.deepEqual(await execution.exited, { code: 0 })
})

test('much input and output at the same time comes through whole', { skip }, async (t) => {
  const { channel } = await open(t)
  const bytes = randomBytes(20 * 2 ** 20)
  const execution = await channel.start({ command: ['cat'], env: {} }, { signal })
  execution.stdin.end(bytes)
  const hash = createHash('sha256')
  for await (const chunk of execution.stdout) hash.update(chunk)
  assert.deepEqual(await execution.exited, { code: 0 })
  assert.equal(hash.digest('hex'), createHash('sha256').update(bytes).digest('hex'))
})

test('stdout and stderr do not mix, however they alternate', { skip }, async (t) => {
  const { channel } = await open(t)
  const script = 'i=0; while [ $i -lt 2000 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done'
  const ran = await run(channel, { command: ['sh', '-c', script] })
  const lines = (letter: string) => Array.from({ length: 2000 }, (_, i) => `${letter}${i}\n`).join('')
  assert.equal(ran.stdout, lines('o'))
  assert.equal(ran.stderr, lines('e'))
})

test('a slow reader holds the command up and loses nothing, while others go on', { skip }, async (t) => {
  const { channel } = await open(t)
  const slow = await channel.start(
    { command: ['sh', '-c', 'head -c 8000000 /dev/zero; echo done >&2'], env: {} },
    { signal },
  )
  let done = false
  slow.stderr?.on('data', () => {
    done = true
  })
  for (let round = 0; round < 20; round += 1)
    assert.equal((await run(channel, { command: ['echo', 'x'] })).stdout, 'x\n')
  assert.equal(done, false, 'a window and a ring hold less than all of it')
  let received = 0
  for await (const chunk of slow.stdout) received += chunk.length
  assert.equal(received, 8_000_000)
  assert.deepEqual(await slow.exited, { code: 0 })
})

test('fifty commands at the same time each get their own output', { skip }, async (t) => {
  const { channel } = await open(t)
  const ran = await Promise.all(
    Array.from({ length: 50 }, (_, i) =>
      run(channel, { command: ['sh', '-c', `read a; echo $a-${i}; exit ${i}`] }, `in${i}\n`),
    ),
  )
  assert.deepEqual(
    ran.map(({ stdout, code }) => [stdout, code]),
    Array.from({ length: 50 }, (_, i) => [`in${i}-${i}\n`, i]),
  )
})

test('what a command leaves behind does not keep it from ending, and does not die of it', { skip }, async (t) => {
  const { channel } = await open(t)
  const ran = await run(channel, {
    command: ['sh', '-c', '(sleep 0.6; echo late; echo alive >/dev/stderr; sleep 1000) & echo $!'],
  })
  assert.equal(ran.code, 0)
  const left = Number(ran.stdout.trim())
  t.after(() => process.kill(left, 'SIGKILL'))
  await sleep(900)
  assert.equal((await run(channel, { command: ['kill', '-0', String(left)] })).code, 0)
})

test('a detached command outlives the channel, and is joined where it was left', { skip }, async (t) => {
  const { agent, channel } = await open(t)
  const script = 'echo one; read a; echo two $a; read b; echo three $b; exit 7'
  const first = await channel.start({ command: ['sh', '-c', script], env: {}, detached: true }, { signal })
  assert.equal(String((await once(first.stdout))[0]), 'one\n')
  await channel[Symbol.asyncDispose]()
  await assert.rejects(first.exited, fault('unavailable', /closed|lost/))
  await using again = await agent.connect({ token: channel.nextToken })
  const [listed] = await again.processes({ signal })
  assert.deepEqual(
    { ...listed, startedAt: 0 },
    { pid: first.pid, command: ['sh', '-c', script], startedAt: 0, running: true, code: null },
  )
  const joined = await again.attach(first.pid, { from: 4, signal })
  joined.stdin.write('x\ny\n')
  assert.equal(await text(joined.stdout), 'two x\nthree y\n')
  assert.deepEqual(await joined.exited, { code: 7 })
  const whole = await again.attach(first.pid, { from: 0, signal })
  assert.equal(await text(whole.stdout), 'one\ntwo x\nthree y\n')
  assert.deepEqual(await whole.exited, { code: 7 })
  await assert.rejects(
    again.attach(999_999, { from: 0, signal }),
    fault('not_found', /no command with process id 999999/),
  )
})

test('of a detached command that nobody reads the last MiB is kept', { skip }, async (t) => {
  const { channel } = await open(t)
  const abort = new AbortController()
  const command = ['sh', '-c', 'seq 1 400000; echo end']
  const first = await channel.start({ command, env: {}, detached: true }, { signal: abort.signal })
  abort.abort()
  while ((await channel.processes({ signal }))[0]?.running !== false) await sleep(20)
  const kept = await text((await channel.attach(first.pid, { from: 0, signal })).stdout)
  assert.equal(kept.length, 2 ** 20)
  assert.ok(kept.endsWith('399999\n400000\nend\n'))
})

test('after quiet nothing is lost of a command: it is joined in the middle of its output', { skip }, async (t) => {
  const { agent, channel } = await open(t)
  const execution = await channel.start({ command: ['seq', '1', '300000'], env: {} }, { signal })
  const chunks: Buffer[] = []
  execution.stdout.on('data', (chunk: Buffer) => chunks.push(chunk))
  await once(execution.stdout)
  await channel.quiesce({ signal })
  await channel[Symbol.asyncDispose]()
  const from = Buffer.concat(chunks).length
  await using again = await agent.connect({ token: channel.nextToken })
  const joined = await again.attach(execution.pid, { from, signal })
  for await (const chunk of joined.stdout) chunks.push(chunk)
  assert.deepEqual(await joined.exited, { code: 0 })
  assert.equal(Buffer.concat(chunks).toString(), Array.from({ length: 300_000 }, (_, i) => `${i + 1}\n`).join(''))
})

test('after quiet the host sends nothing either, whatever is asked of it', { skip }, async (t) => {
  const agent = startAgent()
  t.after(() => agent[Symbol.asyncDispose]())
  const socket = agent.plug()
  await using channel = await agent.connect({ socket })
  const yes = await channel.start({ command: ['sh', '-c', 'yes; cat'], env: {} }, { signal })
  await once(yes.stdout)
  await channel.quiesce({ signal })
  let written = 0
  const write = socket.write.bind(socket)
  socket.write = ((...args: Parameters<typeof write>) => {
    written += 1
    return write(...args)
  }) as typeof socket.write
  yes.exited.catch(() => {})
  yes.stdin.write('more')
  yes.kill('SIGTERM')
  yes.stdout.resume()
  await assert.rejects(channel.metrics({ signal }), fault('unavailable', /quiet for a snapshot/))
  await assert.rejects(channel.files.read('/etc/passwd', { signal }), fault('unavailable', /quiet for a snapshot/))
  await sleep(50)
  assert.equal(written, 0)
})

test('a connection cut in the middle of a frame does no harm to the next', { skip }, async (t) => {
  const agent = startAgent()
  t.after(() => agent[Symbol.asyncDispose]())
  let token: string | undefined
  for (let round = 0; round < 40; round += 1) {
    const socket = agent.plug()
    const channel = await agent.connect({ socket, ...(token === undefined ? {} : { token }) })
    const cat = await channel.start({ command: ['cat'], env: {} }, { signal })
    cat.stdin.write(randomBytes(100_000))
    cat.stdout.resume()
    await channel.metrics({ signal })
    // Half a frame, as a host that was killed leaves it: so short of its end that a marker, or part of it, would fill it up.
    const half = Buffer.alloc(12 + round)
    half.writeUInt32LE(round + (round % 34), 0)
    half.writeUInt32LE(1, 4)
    half[8] = 3
    socket.write(half)
    if (round % 3 === 0) await channel[Symbol.asyncDispose]()
    await channel[Symbol.asyncDispose]()
    token = channel.nextToken
  }
  await using last = await agent.connect({ ...(token === undefined ? {} : { token }) })
  assert.equal((await run(last, { command: ['echo', 'fine'] })).stdout, 'fine\n')
})

test('a beginning cannot be forged by data, nor by an old token', { skip }, async (t) => {
  const { agent, channel } = await open(t)
  const known = Buffer.concat([Buffer.from('tutti.channel.1\n'), randomBytes(16)])
  const secret = Buffer.concat([Buffer.from(channel.nextToken, 'hex'), randomBytes(16)])
  for (const data of [known, secret]) {
    const ran = await channel.start({ command: ['wc', '-c'], env: { X: 'tutti.channel.1' } }, { signal })
    ran.stdin.end(Buffer.concat([data, data]))
    assert.equal((await text(ran.stdout)).trim(), '64')
  }
  await channel[Symbol.asyncDispose]()
  const second = await agent.connect({ token: channel.nextToken })
  await second[Symbol.asyncDispose]()
  const third = await agent.connect({ token: second.nextToken })
  await third[Symbol.asyncDispose]()
  const late = agent.plug()
  late.write(known)
  await using fourth = await agent.connect({ socket: late, token: third.nextToken })
  assert.equal((await run(fourth, { command: ['echo', 'fine'] })).stdout, 'fine\n')
})

test('over a socket that it listens on, the last who connects has the agent', { skip }, async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-guest-'))
  const path = join(directory, 'agent.sock')
  const agent = spawn(agentPath, ['--listen', path, '--no-system'], { stdio: 'inherit' })
  t.after(async () => {
    agent.kill('SIGTERM')
    if (agent.exitCode === null) await new Promise((resolve) => agent.once('exit', resolve))
    await rm(directory, { recursive: true, force: true })
  })
  // The file of a socket is there a moment before anybody listens on it.
  while (
    !readFileSync('/proc/net/unix', 'utf8')
      .split('\n')
      .some((line) => line.endsWith(path) && / 00010000 /.test(line))
  )
    await sleep(5)
  // A VMM's line before all else, and its answer, do no harm.
  const connect = (token?: string) =>
    connectGuest({ socket: path, token, opening: 'CONNECT 1024\n', random: systemRandom, clock: systemClock, signal })
  let channel = await connect()
  const kept = await channel.start(
    { command: ['sh', '-c', 'read a; echo got $a'], env: {}, detached: true },
    { signal },
  )
  for (let round = 0; round < 10; round += 1) {
    const older = channel
    const busy = await older.start({ command: ['cat', '/dev/zero'], env: {} }, { signal })
    busy.exited.catch(() => {})
    busy.stdout.resume()
    if (round % 2 === 0) await older[Symbol.asyncDispose]()
    channel = await connect(older.nextToken)
    await older.closed
    assert.equal((await run(channel, { command: ['echo', String(round)] })).stdout, `${round}\n`)
    await (await channel.attach(busy.pid, { from: 0, signal })).kill('SIGKILL')
  }
  const joined = await channel.attach(kept.pid, { from: 0, signal })
  joined.stdin.write('it\n')
  assert.equal(await text(joined.stdout), 'got it\n')
  await channel[Symbol.asyncDispose]()
})

test('a lost channel rejects everything that was under way', { skip }, async (t) => {
  const { agent, channel } = await open(t)
  const execution = await channel.start({ command: ['sleep', '1000'], env: {} }, { signal })
  const written = (await channel.files.write(`/tmp/tutti-test-${process.pid}-never`, { signal })).written
  const reading = text(execution.stdout)
  agent.process.kill('SIGKILL')
  for (const promise of [execution.exited, written, reading])
    await assert.rejects(promise, fault('unavailable', /lost/))
  await channel.closed
  await assert.rejects(channel.metrics({ signal }), fault('unavailable', /lost/))
  process.kill(execution.pid, 'SIGKILL')
})

test('freezing stops what runs, and thawing lets it go on', { skip }, async (t) => {
  const { channel } = await open(t)
  const execution = await channel.start(
    { command: ['sh', '-c', 'while :; do echo x; sleep 0.01; done'], env: {} },
    { signal },
  )
  let seen = 0
  execution.stdout.on('data', () => seen++)
  while (seen < 5) await sleep(10)
  await channel.freeze({ sync: true, signal })
  await assert.rejects(channel.files.makeDirectory('/tmp/x', { signal }), fault('conflict', /stand still/))
  await assert.rejects(run(channel, { command: ['true'] }), fault('conflict', /nothing can be run while/))
  const before = seen
  await sleep(300)
  assert.equal(seen, before)
  await channel.thaw({ signal })
  while (seen < before + 5) await sleep(10)
  execution.kill('SIGKILL')
  await execution.exited
})

test('figures of the machine are there to be had', { skip }, async (t) => {
  const { channel } = await open(t)
  const metrics = await channel.metrics({ signal })
  assert.ok(metrics.memoryTotal > metrics.memoryUsed && metrics.memoryUsed > 0)
  assert.ok(metrics.diskTotal > metrics.diskUsed && metrics.cpus > 0 && metrics.cpuMs > 0 && metrics.processes > 1)
  assert.ok(Math.abs(metrics.now - Date.now()) < 60_000)
  await channel.shrink({ signal })
})

function notRoot(): string | false {
  return process.getuid?.() === 0 ? false : 'needs root'
}

function once(stream: NodeJS.ReadableStream): Promise<[Buffer]> {
  return new Promise((resolve, reject) => {
    stream.once('data', (chunk: Buffer) => {
      stream.pause()
      resolve([chunk])
    })
    stream.once('error', reject)
    stream.resume()
  })
}
