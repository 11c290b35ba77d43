import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { pino } from 'pino'
import { systemClock } from '../../kit/system-clock.ts'
import { systemRandom } from '../../kit/system-random.ts'
import { Fault, sentence } from '../../model/fault.ts'
import { openObjects } from '../objects/open.ts'
import { openContentStore } from '../open.ts'
import { lockDirectory } from '../store/lock.ts'
import { serveBlocks } from './server.ts'
import { Uploads } from './uploads.ts'

/** Somebody else serves the directory, or is about to. */
const exitCodeOfSecond = 75

/**
 * The block server as a program: `--directory D --socket S [--content C] [--upstream URL]`. It outlives whoever started it, and ends only
 * when it is asked to. Says `ready` on standard output.
 */
const { values } = parseArgs({
  options: {
    directory: { type: 'string' },
    socket: { type: 'string' },
    content: { type: 'string' },
    upstream: { type: 'string' },
  },
})

try {
  await run(values)
} catch (error) {
  console.error(sentence(error))
  process.exitCode = error instanceof Fault && error.code === 'conflict' ? exitCodeOfSecond : 1
}

async function run({ directory, socket, content, upstream }: typeof values): Promise<void> {
  if (directory === undefined || socket === undefined) throw new Error('--directory and --socket are needed')
  process.umask(0o077)
  process.on('SIGHUP', () => {})
  process.stdout.on('error', () => {})
  await mkdir(directory, { recursive: true, mode: 0o700 })
  using _lock = lockDirectory(directory)
  const remote = upstream === undefined ? undefined : await openObjects(upstream, { random: systemRandom })
  const log = pino({ base: null, timestamp: pino.stdTimeFunctions.isoTime }, pino.destination({ fd: 2, sync: true }))
  await using store = await openContentStore({
    directory: content ?? join(directory, 'content'),
    upstream: remote,
    clock: systemClock,
    random: systemRandom,
  })
  await using uploads =
    remote &&
    new Uploads({
      ...{ directory: join(directory, 'uploads'), local: store.objects, upstream: remote },
      ...{ clock: systemClock, random: systemRandom, log },
    })
  await uploads?.resume()
  const stopped = Promise.withResolvers<void>()
  await using _server = await serveBlocks({
    directory,
    socket,
    content: store,
    clock: systemClock,
    log,
    uploads,
    upstream,
    onStop: stopped.resolve,
    onBroken: (fault) => {
      // What is served cannot be served any more; the next process takes it up as after any other death.
      console.error(sentence(fault))
      process.exit(1)
    },
  })
  console.log('ready')
  await stopped.promise
}
