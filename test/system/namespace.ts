import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** A machine of its own as far as the network goes: a network namespace joined to ours by one cable that can be cut. */
export interface Namespace extends AsyncDisposable {
  name: string
  /** Our end of the cable. */
  host: string
  /** Puts a command into the namespace. */
  through: string[]
  cut(): Promise<void>
  heal(): Promise<void>
}

/** Why namespaces cannot be made here, or false. */
export async function whyNoNamespaces(): Promise<string | false> {
  if (process.platform !== 'linux') return 'network namespaces need Linux'
  if (process.getuid?.() !== 0) return 'network namespaces need root'
  try {
    await run('ip', ['netns', 'list'])
    return false
  } catch {
    return 'the program "ip" (package iproute2) is missing'
  }
}

export async function openNamespace(): Promise<Namespace> {
  const tag = `${process.pid % 10_000}${Math.floor(Math.random() * 1000)}`
  const name = `tutti-${tag}`
  const [ours, theirs] = [`tt${tag}a`, `tt${tag}b`]
  const subnet = `10.213.${Math.floor(Math.random() * 256)}`
  await using undo = new AsyncDisposableStack()
  await run('ip', ['netns', 'add', name])
  undo.defer(async () => {
    await run('ip', ['netns', 'delete', name])
  })
  await run('ip', ['link', 'add', ours, 'type', 'veth', 'peer', 'name', theirs, 'netns', name])
  undo.defer(async () => {
    // Goes with the namespace; only a failure half-way leaves it behind.
    await run('ip', ['link', 'delete', ours]).catch(() => {})
  })
  await run('ip', ['address', 'add', `${subnet}.1/30`, 'dev', ours])
  await run('ip', ['link', 'set', ours, 'up'])
  await run('ip', ['-n', name, 'address', 'add', `${subnet}.2/30`, 'dev', theirs])
  await run('ip', ['-n', name, 'link', 'set', theirs, 'up'])
  await run('ip', ['-n', name, 'link', 'set', 'lo', 'up'])
  const owned = undo.move()
  return {
    name,
    host: `${subnet}.1`,
    through: ['ip', 'netns', 'exec', name],
    cut: async () => {
      // Their end goes down: our address stays, and nobody is told.
      await run('ip', ['-n', name, 'link', 'set', theirs, 'down'])
    },
    heal: async () => {
      await run('ip', ['-n', name, 'link', 'set', theirs, 'up'])
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}
