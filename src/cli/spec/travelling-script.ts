import { open } from 'node:fs/promises'
import { basename } from 'node:path'
import { Fault } from '../../model/fault.ts'
import type { JobInput } from '../../model/job.ts'

type Template = NonNullable<JobInput['tasks'][string]['templates']>[number]

/** As long as a template may be. */
const maxBytes = 262_144

/**
 * The script that a one-off names by a relative path, such as `./build.sh`. It is a file of the machine where the
 * command was typed, and nodes are other machines: it travels inside the job. Undefined for all other words, which are
 * programs of the node.
 */
export async function travellingScript(word: string): Promise<Template | undefined> {
  if (!word.includes('/') || word.startsWith('/')) return undefined
  const text = await readScript(word)
  return { content: text.replaceAll('${', () => '$${'), to: `local/${basename(word)}`, mode: '0755' }
}

async function readScript(path: string): Promise<string> {
  try {
    await using file = await open(path)
    const { mode, size } = await file.stat()
    if ((mode & 0o111) === 0) throw new Fault('invalid', `"${path}" is not executable; chmod +x would help`)
    const bytes = size <= maxBytes ? await file.readFile() : Buffer.alloc(0)
    const text = bytes.toString('utf8')
    if (size <= maxBytes && Buffer.from(text).equals(bytes)) return text
  } catch (error) {
    if (error instanceof Fault) throw error
    const { code = '' } = error as NodeJS.ErrnoException
    throw new Fault('invalid', `cannot read ${path}: ${reasons[code] ?? (error as Error).message}`)
  }
  throw new Fault(
    'invalid',
    `"${path}" is no text of at most ${maxBytes / 1024} KiB, so that it cannot travel with the job; give its absolute path on the node, or a job file with an artifact`,
  )
}

const reasons: Record<string, string> = {
  ENOENT: 'there is no such file here',
  EACCES: 'reading it is not allowed',
  EISDIR: 'it is a directory',
}
