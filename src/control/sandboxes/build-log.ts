import type { BuildId } from '../../model/ids.ts'
import type { BuildLogLine } from '../../model/sandbox.ts'
import type { View } from '../../store/store.ts'
import type { Control } from '../control.ts'

/** Lines kept of one build; what comes after is counted and left out. */
const mostLines = 5000
/** Lines that came within this are one commit. */
const gatherMs = 200

export interface BuildLogWriter {
  add(line: BuildLogLine): void
  /** Resolves when everything is kept. */
  close(): Promise<void>
}

/** Keeps what a build says, a few lines a commit, so that it can be followed and read later. */
export function buildLogWriter({ store, clock, log }: Control, build: BuildId): BuildLogWriter {
  let waiting: BuildLogLine[] = []
  let part = 0
  let kept = 0
  let leftOut = 0
  let writing: Promise<unknown> = Promise.resolve()
  let gathering = false
  const done = new AbortController()
  const flush = () => {
    if (waiting.length === 0) return
    const lines = waiting
    waiting = []
    const row = { build, part: part++, lines }
    writing = writing.then(() =>
      store
        .write((tx) => {
          if (tx.get('builds', build)) tx.put('buildLogs', row)
        })
        .catch((error: unknown) => log.warn({ err: error, build }, 'some lines of a build could not be kept')),
    )
  }
  const add = (line: BuildLogLine) => {
    if (kept >= mostLines) {
      leftOut += 1
      return
    }
    kept += 1
    waiting.push({ ...line, message: line.message.slice(0, 4000) })
    if (gathering) return
    gathering = true
    clock.sleep(gatherMs, { signal: done.signal }).then(
      () => {
        gathering = false
        flush()
      },
      () => {},
    )
  }
  return {
    add,
    close: async () => {
      done.abort(new Error('the build is over'))
      if (leftOut > 0) {
        const message = leftOut === 1 ? '1 more line is not kept' : `${leftOut} more lines are not kept`
        waiting.push({ at: clock.now(), level: 'warning', step: 0, message })
        leftOut = 0
      }
      flush()
      await writing
    },
  }
}

/** What a build said so far and, with `follow`, what it goes on to say until it is over. */
export async function* readBuildLog(
  { store }: Pick<Control, 'store'>,
  build: BuildId,
  { follow, signal }: { follow: boolean; signal: AbortSignal },
): AsyncGenerator<BuildLogLine> {
  let next = 0
  let changed = Promise.withResolvers<void>()
  const stop = store.subscribe(({ changes }) => {
    const concerns = changes.some(
      (change) =>
        (change.table === 'builds' && change.key === build) ||
        (change.table === 'buildLogs' && change.key.startsWith(build)),
    )
    if (concerns) changed.resolve()
  })
  const gone = () => changed.resolve()
  signal.addEventListener('abort', gone, { once: true })
  try {
    for (;;) {
      changed = Promise.withResolvers()
      const isOver = store.view.get('builds', build)?.status !== 'building'
      for (const { part, lines } of partsOf(store.view, build)) {
        if (part < next) continue
        next = part + 1
        yield* lines
      }
      if (!follow || isOver || signal.aborted) return
      await changed.promise
    }
  } finally {
    stop()
    signal.removeEventListener('abort', gone)
  }
}

function partsOf(view: View, build: BuildId) {
  return [...view.by('buildLogsByBuild', build)].sort((a, b) => a.part - b.part)
}
