import { mkdir, open, readFile, rename } from 'node:fs/promises'
import { dirname } from 'node:path'
import { z } from 'zod'
import { Fault } from '../model/fault.ts'
import { Name, NodeId } from '../model/ids.ts'

/** Who this node is and how it proves it: one file, readable by its owner only. */
export const NodeIdentity = z.strictObject({
  node: NodeId,
  name: Name,
  address: z.strictObject({ host: z.string(), port: z.int() }),
  certificate: z.string(),
  key: z.string(),
  ca: z.string(),
})
export type NodeIdentity = z.infer<typeof NodeIdentity>

/** Undefined when this machine has not joined yet. */
export async function readIdentity(file: string): Promise<NodeIdentity | undefined> {
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw new Fault('invalid', `cannot read this node's identity at ${file}`, { cause: error })
  })
  if (text === undefined) return undefined
  try {
    return NodeIdentity.parse(JSON.parse(text))
  } catch (cause) {
    throw new Fault('invalid', `the node's identity at ${file} is damaged; remove it and join again with a new token`, {
      cause,
    })
  }
}

/** Whole or not at all, whenever the power goes. */
export async function writeIdentity(file: string, identity: NodeIdentity): Promise<void> {
  await mkdir(dirname(file), { recursive: true, mode: 0o700 })
  const next = `${file}.new`
  {
    await using handle = await open(next, 'w', 0o600)
    await handle.writeFile(JSON.stringify(identity, undefined, 2))
    await handle.sync()
  }
  await rename(next, file)
}
