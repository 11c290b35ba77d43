import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { appendFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Duplex, duplexPair } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { afterEach, beforeEach, test } from 'node:test'
import type { Guest } from '../../guest/guest.ts'
import { silentLog } from '../../kit/log.ts'
import { seededRandom } from '../../kit/random.ts'
import { systemClock } from '../../kit/system-clock.ts'
import type { NodeId } from '../../model/ids.ts'
import { encodeFrame, FrameDecoder, frame } from '../../wire/frames.ts'
import type { ServiceName } from '../../wire/services.ts'
import { type Agent, startAgent } from '../agent.ts'
import { MemoryLedger } from '../ledger/memory.ts'
import { TestMachine } from '../test-driver.ts'
import { assignmentOf, jobOf, newId, TestControl, testFacts } from '../testing.ts'
import { openWorkspace } from '../workspace/disk.ts'

/** A way in that runs real programs, as the process driver's does. */
const realExec: Guest['exec'] = async ({ command: [program = '', ...args] }, { signal }) => {
  const child = spawn(program, args, { signal, killSignal: 'SIGKILL' })
  child.on('error', () => {})
  const exited = new Promise<{ code: number }>((resolve) =>
    child.on('close', (code, name) => resolve({ code: code ?? (name === 'SIGKILL' ? 137 : 143) })),
  )
  return {
    stdin: child.stdin,
    stdout: child.stdout,
    stderr: child.stderr,
    resize: () => {},
    kill: (name) => void child.kill(name as NodeJS.Signals),
    exited,
  }
}

let top = ''
let agent: Agent
let machine: TestMachine
let control: TestControl
let allocation = ''

beforeEach(async () => {
  top = await mkdtemp(join(tmpdir(), 'tutti-services-'))
  machine = new TestMachine()
  machine.exec = realExec
  control = new TestControl()
  agent = await startAgent({
    clock: systemClock,
    random: seededRandom('a'),
    log: silentLog,
    ledger: new MemoryLedger(),
    workspace: openWorkspace({ root: top, clock: systemClock }),
    drivers: [machine.driver(systemClock)],
    probe: { http: async () => {}, tcp: async () => {} },
    node: { id: newId() as string as NodeId, name: 'n' },
    facts: async () => testFacts,
    dial: control.dial,
  })
  // A template makes the workspace lay out real directories for the task.
  const job = jobOf({
    tasks: { main: { driver: 'fake', templates: [{ content: 'x', to: 'x' }] } },
    restart: { attempts: 0 },
  })
  const assignment = assignmentOf(job)
  allocation = assignment.id
  await until(() => control.taken > 0)
  control.put(job, assignment)
  await until(() => control.phase(allocation) === 'running')
})
afterEach(async () => {
  await agent.close()
  await rm(top, { recursive: true, force: true })
})

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await systemClock.sleep(5)
}

function open(
  service: ServiceName,
  request: object,
  signal = new AbortController().signal,
): { stream: Duplex; served: Promise<void> } {
  const [mine, theirs] = duplexPair()
  const served = agent.services[service]({ allocation, task: 'main', ...request }, theirs, { signal })
  served.catch(() => {})
  return { stream: mine, served }
}

async function framesOf(stream: Duplex): Promise<{ stdout: string; stderr: string; exit: unknown }> {
  const decoder = new FrameDecoder()
  const got = { stdout: '', stderr: '', exit: undefined as unknown }
  for (const { kind, payload } of decoder.push(await buffer(stream))) {
    if (kind === frame.stdout) got.stdout += payload
    if (kind === frame.stderr) got.stderr += payload
    if (kind === frame.exit) got.exit = JSON.parse(payload.toString())
  }
  return got
}

test('a command in a running task gets its input, and its output and exit code come back', async () => {
  const { stream } = open('exec', { command: ['sh', '-c', 'cat; echo err >&2; exit 3'] })
  stream.write(encodeFrame(frame.stdin, 'hello '))
  stream.write(encodeFrame(frame.stdin, 'there'))
  stream.write(encodeFrame(frame.stdinEnd))
  assert.deepEqual(await framesOf(stream), { stdout: 'hello there', stderr: 'err\n', exit: { code: 3 } })
})

test('megabytes of output come whole, in frames that are not too large', async () => {
  const { stream } = open('exec', { command: ['head', '-c', String(5 * 2 ** 20), '/dev/zero'] })
  const { stdout, exit } = await framesOf(stream)
  assert.equal(stdout.length, 5 * 2 ** 20)
  assert.deepEqual(exit, { code: 0 })
})

test('giving the stream up kills the command; a signal frame reaches it', async () => {
  const giving = new AbortController()
  const first = open('exec', { command: ['sleep', '1000'] }, giving.signal)
  giving.abort()
  first.stream.resume()
  await first.served.catch(() => {})
  const second = open('exec', { command: ['sleep', '1000'] })
  await new Promise((resolve) => setImmediate(resolve))
  second.stream.write(encodeFrame(frame.signal, 'SIGTERM'))
  assert.deepEqual((await framesOf(second.stream)).exit, { code: 143 })
})

test('what cannot be done is refused with a sentence before the stream is touched', async () => {
  await assert.rejects(open('exec', { command: [] }).served, { code: 'invalid' })
  await assert.rejects(open('exec', { command: ['x'], allocation: newId() }).served, { code: 'not_found' })
  await assert.rejects(open('exec', { command: ['x'], task: 'nope' }).served, {
    code: 'not_found',
    message: /its tasks are main/,
  })
  await assert.rejects(
    open('exec', { command: ['x'], terminal: { columns: 80, rows: 24 } }).served,
    /cannot give a terminal/,
  )
  await assert.rejects(open('signal', { signal: 'HUP' }).served, /write it like "SIGHUP"/)
  machine.exit(`${allocation}-main`, { code: 1 })
  await until(() => control.phase(allocation) === 'failed')
  await assert.rejects(open('exec', { command: ['true'] }).served, {
    code: 'conflict',
    message: /is not running; it is failed/,
  })
})

test('logs give the last lines, go on while the task runs, and end when it has', async () => {
  const path = join(top, 'logs', allocation, 'main.stdout')
  appendFileSync(path, 'one\ntwo\nthree\n')
  assert.equal((await buffer(open('logs', { stream: 'stdout', tail: 2 }).stream)).toString(), 'two\nthree\n')
  assert.equal((await buffer(open('logs', { stream: 'stdout' }).stream)).toString(), 'one\ntwo\nthree\n')
  assert.equal((await buffer(open('logs', { stream: 'stderr' }).stream)).toString(), '')
  const followed = open('logs', { stream: 'stdout', follow: true, tail: 0 })
  const text = buffer(followed.stream)
  // Followed from here: the service has looked at the file before it answers to anything else.
  await systemClock.sleep(50)
  appendFileSync(path, 'four\n')
  machine.exit(`${allocation}-main`, { code: 0 })
  assert.equal((await text).toString(), 'four\n')
})

test('signals reach the task and its use can be asked', async () => {
  await open('signal', { signal: 'SIGHUP' }).served
  assert.deepEqual(machine.running.get(`${allocation}-main`)?.signals, ['SIGHUP'])
  const [mine, theirs] = duplexPair()
  await agent.services.stats({ allocation }, theirs, { signal: new AbortController().signal })
  assert.deepEqual(JSON.parse((await buffer(mine)).toString()), { tasks: { main: { memory: 1, cpuMs: 2, pids: 3 } } })
})
