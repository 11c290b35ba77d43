import { chmod, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { Fault } from '../model/fault.ts'
import type { Home } from './home.ts'

/** A control plane that the command line knows: where it is, how to recognise it, and who we are there. */
export interface Context {
  name: string
  url: string
  /** SHA-256 of the authority's certificate, hex. */
  caFingerprint: string
  /** PEM. Fetched by its fingerprint when it is not known. */
  ca?: string
  /** A secret. */
  token?: string
}

export interface Contexts {
  current: string | null
  contexts: Context[]
}

/** Readable by its owner only, because tokens are in it. */
const fileMode = 0o600

export async function readContexts(home: Home): Promise<Contexts> {
  const text = await readFile(home.contextsFile, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw new Fault('invalid', `cannot read the contexts in ${home.contextsFile}: ${error.code ?? error.message}`)
  })
  if (text === undefined) return { current: null, contexts: [] }
  const contexts = parseContexts(text)
  if (contexts) return contexts
  throw new Fault('invalid', `${home.contextsFile} is damaged; remove it and add the contexts again`)
}

/** Adds or replaces a context, and makes it the current one when asked or when it is the first. */
export async function saveContext(home: Home, context: Context, { use }: { use: boolean }): Promise<void> {
  const known = await readContexts(home)
  const contexts = [...known.contexts.filter(({ name }) => name !== context.name), context]
  await writeContexts(home, { current: use ? context.name : (known.current ?? context.name), contexts })
}

/** Makes another one current; the name must be known. */
export async function useContext(home: Home, name: string): Promise<void> {
  const known = await readContexts(home)
  findContext(known, name)
  await writeContexts(home, { ...known, current: name })
}

export async function removeContext(home: Home, name: string): Promise<void> {
  const known = await readContexts(home)
  findContext(known, name)
  const contexts = known.contexts.filter((context) => context.name !== name)
  const current = known.current === name ? (contexts[0]?.name ?? null) : known.current
  await writeContexts(home, { current, contexts })
}

export function findContext({ contexts }: Contexts, name: string): Context {
  const found = contexts.find((context) => context.name === name)
  if (found) return found
  const names = contexts.map((context) => context.name).join(', ')
  throw new Fault('not_found', `there is no context "${name}"; ${names ? `there are ${names}` : 'there are none yet'}`)
}

/**
 * The control plane to talk to: what the environment says, else the named context, else the current one.
 * TUTTI_ADDR with TUTTI_CA_FINGERPRINT and TUTTI_TOKEN need no file; alone, each overrides that part of the context.
 */
export async function chooseContext(
  home: Home,
  env: Readonly<Record<string, string | undefined>>,
  name: string | undefined = env.TUTTI_CONTEXT || undefined,
): Promise<Context> {
  const known = await readContexts(home)
  const wanted = name ?? known.current
  const base = wanted === null ? undefined : findContext(known, wanted)
  const url = env.TUTTI_ADDR ? withScheme(env.TUTTI_ADDR) : base?.url
  if (url === undefined) {
    throw new Fault(
      'unavailable',
      'no control plane is known here; start one with "tutti dev", or name one with "tutti context add"',
    )
  }
  const caFingerprint = env.TUTTI_CA_FINGERPRINT || base?.caFingerprint || ''
  const token = env.TUTTI_TOKEN || base?.token
  const ca = base && caFingerprint === base.caFingerprint ? base.ca : undefined
  return {
    name: base?.name ?? 'environment',
    url,
    caFingerprint,
    ...(ca === undefined ? {} : { ca }),
    ...(token === undefined ? {} : { token }),
  }
}

export function withScheme(address: string): string {
  return /^[a-z]+:\/\//i.test(address) ? address : `https://${address}`
}

/** Written beside and renamed, so that a crash leaves the old file. */
async function writeContexts(home: Home, contexts: Contexts): Promise<void> {
  const directory = dirname(home.contextsFile)
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const next = `${home.contextsFile}.${process.pid}`
  try {
    await writeFile(next, `${JSON.stringify({ version: 1, ...contexts }, null, 2)}\n`, { mode: fileMode })
    await chmod(next, fileMode)
    await rename(next, home.contextsFile)
  } catch (cause) {
    await rm(next, { force: true })
    throw new Fault('unavailable', `cannot write the contexts to ${home.contextsFile}`, { cause })
  }
}

/** By hand rather than by schema: every command reads this, and loading the schema library would double its time. */
function parseContexts(text: string): Contexts | undefined {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined
  }
  if (typeof value !== 'object' || value === null) return undefined
  const { current, contexts } = value as { current?: unknown; contexts?: unknown }
  if (!Array.isArray(contexts) || !contexts.every(isContext)) return undefined
  return { current: typeof current === 'string' ? current : null, contexts }
}

function isContext(value: unknown): value is Context {
  if (typeof value !== 'object' || value === null) return false
  const { name, url, caFingerprint, ca, token } = value as Record<string, unknown>
  const optional = [ca, token].every((part) => part === undefined || typeof part === 'string')
  return [name, url, caFingerprint].every((part) => typeof part === 'string') && optional
}
