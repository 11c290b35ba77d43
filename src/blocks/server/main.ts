import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { systemClock } from '../../kit/system-clock.ts'
import { systemRandom } from '../../kit/system-random.ts'
import { sentence } from '../../model/fault.ts'
import { openObjects } from '../objects/open.ts'
import { openContentStore } from '../open.ts'
import { lockDirectory } from '../store/lock.ts'
import { serveBlocks } from './server.ts'

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
  process.exitCode = 1
}

async function run({ directory, socket, content, upstream }: typeof values): Promise<void> {
  if (directory === undefined || socket === undefined) throw new Error('--directory and --socket are needed')
  process.umask(0o077)
  process.on('SIGHUP', () => {})
  process.stdout.on('error', () => {})
  await mkdir(directory, { recursive: true, mode: 0o700 })
  using _lock = lockDirectory(directory)
  await using store = await openContentStore({
    directory: content ?? join(directory, 'content'),
    upstream: upstream === undefined ? undefined : await openObjects(upstream, { random: systemRandom }),
    clock: systemClock,
    random: systemRandom,
  })
  const stopped = Promise.withResolvers<void>()
  await using _server = await serveBlocks({
    directory,
    socket,
    content: store,
    clock: systemClock,
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
