import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { chmod, cp, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { type Random, seededRandom } from '../../kit/random.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { encodeFields, frameType, operationNumber } from './fields.ts'
import { encodeFrame, FrameDecoder, maxPayload } from './frames.ts'
import { lackingAgent, lackingPrograms, sanitizedPath, startAgent } from './testing.ts'

/** How long the agent is fed: enough to find what the generator can find; longer by TUTTI_FUZZ_S. */
const feedMs = Number(process.env['TUTTI_FUZZ_S'] ?? 20) * 1000
const seed = process.env['TUTTI_FUZZ_SEED'] ?? 'guest'

test(`whatever comes, the agent neither falls, nor hangs, nor grows (seed ${seed})`, {
  skip: lackingFuzz(),
}, async (t) => {
  const random = seededRandom(seed)
  const directory = await mkdtemp(join(tmpdir(), 'tutti-fuzz-'))
  t.after(() => rm(directory, { recursive: true, force: true }))
  await chmod(directory, 0o777)
  // A copy, as the agent becomes a user who may not enter our directory; that user can change nothing of the machine.
  const program = join(directory, 'agent')
  await cp(sanitizedPath, program)
  const as = ['unshare', '--net', '--', 'setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--']
  await using agent = startAgent({
    command: [...as, program],
    env: { ASAN_OPTIONS: 'quarantine_size_mb=4:detect_leaks=0:abort_on_error=1', UBSAN_OPTIONS: 'print_stacktrace=1' },
  })
  let token: string | undefined
  let residentAtFirst = 0
  let rounds = 0
  for (const until = systemClock.monotonic() + feedMs; systemClock.monotonic() < until; rounds += 1) {
    const socket = agent.plug()
    const channel = await agent.connect({ socket, ...(token === undefined ? {} : { token }) })
    token = channel.nextToken
    await channel.metrics({ signal: AbortSignal.timeout(20_000) })
    const feed = feeder(random, directory)
    for (let count = 0; count < 200; count += 1) socket.write(feed())
    if (rounds % 2 === 0) await channel[Symbol.asyncDispose]()
    assert.equal(agent.process.exitCode, null)
    if (rounds === 60) residentAtFirst = await resident(agent.process.pid)
  }
  const channel = await agent.connect({ ...(token === undefined ? {} : { token }) })
  await channel.metrics({ signal: AbortSignal.timeout(20_000) })
  const grown = (await resident(agent.process.pid)) - residentAtFirst
  t.diagnostic(`${rounds * 200} frames, grown by ${grown} KiB`)
  assert.equal(agent.process.exitCode, null)
  // Rings and tables fill up to their bounds; what leaks grows with the rounds.
  if (residentAtFirst > 0) assert.ok(grown < 200_000, `it grew by ${grown} KiB`)
})

/** Frames as a host might send them, and frames that were damaged on the way. */
function feeder(random: Random, directory: string): () => Buffer {
  const below = (limit: number) => Math.floor(random.fraction() * limit)
  const pick = <T>(values: readonly T[]): T => values[below(values.length)] as T
  let stream = 1000 + below(1000) * 1000
  const paths = ['', 'a', 'a/b', 'a/b/c', 'x'.repeat(300), '../..', 'ä\u0000b'].map((path) => `${directory}/${path}`)
  const fields = () =>
    encodeFields({
      ...(below(3) ? { path: pick([...paths, '/proc/self/status', '/etc', 'relative', '']) } : {}),
      ...(below(4) ? {} : { to: pick(paths) }),
      ...(below(3) ? {} : { user: pick(['nobody', 'root', '65534', 'who:what', 'x'.repeat(500)]) }),
      ...(below(3) ? {} : { cwd: pick(['/', '/tmp', 'x', '/no']) }),
      ...(below(2)
        ? { arg: pick([['true'], ['cat'], ['echo', 'x'.repeat(below(5000))], ['nonesuch'], ['seq', '20000']]) }
        : {}),
      ...(below(3) ? {} : { env: pick([['A=b'], ['=b'], ['A'], Array.from({ length: 300 }, (_, i) => `V${i}=x`)]) }),
      ...(below(5) ? {} : { columns: below(70_000), rows: below(70_000) }),
      ...(below(3) ? {} : { detached: true }),
      ...(below(3) ? {} : { pid: below(100_000), offset: below(2 ** 31), length: pick([0, 1, 1e9, 2 ** 53 - 1]) }),
      ...(below(3) ? {} : { recursive: below(2), port: below(70_000), mode: below(2 ** 16) }),
      ...(below(3)
        ? {}
        : { generation: 'g', hostname: 'h', machineId: 'a'.repeat(pick([32, 31, 64])), entropy: random.bytes(32) }),
    })
  const operations = [
    ...(['exec', 'attach', 'processes', 'read', 'write', 'stat', 'list', 'makeDirectory', 'move', 'remove'] as const),
    ...(['watch', 'forward', 'identify', 'thaw', 'shrink', 'metrics'] as const),
  ]
  const frame = (type: number, id: number, payload: Buffer, flags = 0) =>
    Buffer.concat(encodeFrame({ stream: id, type: type as (typeof frameType)['open'], flags, payload }))
  const whole = () => {
    const known = stream - below(20)
    switch (below(10)) {
      case 0:
      case 1:
      case 2:
      case 3:
        stream += 1
        return frame(
          frameType.open,
          stream,
          Buffer.concat([Buffer.from([operationNumber(pick(operations))]), fields()]),
          below(30) ? 0 : 1,
        )
      case 4:
        return frame(frameType.data, known, Buffer.from(random.bytes(below(3000))))
      case 5:
        return frame(frameType.credit, known, Buffer.from(random.bytes(4)))
      case 6:
        return frame(pick([frameType.end, frameType.close]), known, Buffer.alloc(0))
      case 7:
        return frame(pick([frameType.signal, frameType.resize]), known, Buffer.from(random.bytes(pick([0, 1, 4]))))
      case 8:
        return frame(below(256), known, Buffer.from(random.bytes(below(100))), below(256))
      default:
        return frame(frameType.data, known, Buffer.alloc(maxPayload, below(256)))
    }
  }
  return () => {
    const bytes = whole()
    if (below(60) === 0) return Buffer.concat([Buffer.from('tutti.channel.1\n'), random.bytes(below(40))])
    // Inside of a payload, mostly: damage to the framing makes the agent deaf for the rest of the round.
    if (below(4) === 0 && bytes.length > 14) bytes[12 + below(bytes.length - 13)] = below(256)
    if (below(150) === 0) bytes[below(bytes.length)] = below(256)
    return below(150) === 0 ? bytes.subarray(0, below(bytes.length)) : bytes
  }
}

test('frames come out as they went in, however the bytes were cut', () => {
  const frames = fc.array(
    fc.record(
      {
        stream: fc.nat(2 ** 32 - 1),
        type: fc.constantFrom(...Object.values(frameType)),
        flags: fc.nat(255),
        payload: fc.uint8Array({ maxLength: 3000 }).map((bytes) => Buffer.from(bytes)),
      },
      { noNullPrototype: true },
    ),
    { maxLength: 12 },
  )
  fc.assert(
    fc.property(
      frames,
      fc.array(fc.integer({ min: 1, max: 500 }), { minLength: 1 }),
      fc.uint8Array({ maxLength: 100 }),
      (sent, cuts, before) => {
        const nonce = Buffer.from('0123456789abcdef')
        const decoder = new FrameDecoder()
        decoder.expect(nonce)
        let bytes = Buffer.concat([before, nonce, ...sent.flatMap(encodeFrame)])
        const got = []
        for (let at = 0; bytes.length > 0; at += 1) {
          const size = cuts[at % cuts.length] ?? 1
          for (const frame of decoder.push(bytes.subarray(0, size)))
            got.push({ ...frame, payload: Buffer.from(frame.payload) })
          bytes = bytes.subarray(size)
        }
        assert.deepEqual(got, sent)
      },
    ),
  )
})

test('whatever a guest sends, the host’s decoder says so or goes on', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 400 }), { maxLength: 20 }), (chunks) => {
      const decoder = new FrameDecoder()
      try {
        for (const chunk of chunks)
          for (const frame of decoder.push(Buffer.from(chunk))) assert.ok(frame.payload.length <= maxPayload)
      } catch (error) {
        assert.match(String(error), /over the limit|does not end as frames do/)
      }
    }),
    { numRuns: 1000 },
  )
})

async function resident(pid: number | undefined): Promise<number> {
  return Number(/VmRSS:\s*(\d+)/.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1])
}

function lackingFuzz(): string | false {
  const missing = lackingAgent() ?? lackingPrograms(['gcc', 'unshare', 'setpriv'])
  if (missing !== undefined) return missing
  if (process.getuid?.() !== 0) return 'needs root, to run as a user who can change nothing'
  try {
    execFileSync(new URL('../../../guest/build', import.meta.url).pathname, ['--sanitize'], { stdio: 'pipe' })
    return false
  } catch {
    return 'needs a compiler with sanitizers'
  }
}
