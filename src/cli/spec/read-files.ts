import { open } from 'node:fs/promises'
import { Fault, type FaultPlace } from '../../model/fault.ts'
import type { JobSpec } from '../../model/job.ts'
import type { Cli } from '../cli.ts'
import { maxSpecBytes, readJobText } from './read-text.ts'
import { SpecFault } from './spec-fault.ts'

export interface ReadJob {
  spec: JobSpec
  file: string
}

/** The jobs of files, in their order; `-` is standard input. The mistakes of all files come in one SpecFault. */
export async function readJobFiles(cli: Cli, files: readonly string[]): Promise<ReadJob[]> {
  const jobs: ReadJob[] = []
  const places: FaultPlace[] = []
  const sources = new Map<string, string>()
  for (const file of files) {
    try {
      const specs = await readJobFile(cli, file)
      jobs.push(...specs.map((spec) => ({ spec, file })))
    } catch (error) {
      if (!(error instanceof SpecFault)) throw error
      places.push(...error.places)
      for (const [name, text] of error.sources) sources.set(name, text)
    }
  }
  if (places.length > 0) throw new SpecFault(places, sources)
  const twice = jobs.find((job, at) => jobs.findIndex((other) => other.spec.name === job.spec.name) < at)
  if (twice)
    throw new Fault('invalid', `the files name job "${twice.spec.name}" twice, the second time in ${twice.file}`)
  return jobs
}

async function readJobFile(cli: Cli, file: string): Promise<JobSpec[]> {
  if (file === '-') return readJobText(await readInput(cli), 'standard input')
  if (/\.[cm]?[jt]s$/.test(file)) {
    const { readJobModule } = await import('./read-module.ts')
    return readJobModule(cli, file)
  }
  return readJobText(await readFile(file), file)
}

/** No more than one byte beyond the limit, which the reader then refuses. */
async function readFile(file: string): Promise<string> {
  try {
    await using handle = await open(file)
    const buffer = Buffer.alloc(maxSpecBytes + 1)
    let length = 0
    while (length < buffer.length) {
      const { bytesRead } = await handle.read(buffer, length, buffer.length - length)
      if (bytesRead === 0) break
      length += bytesRead
    }
    return buffer.subarray(0, length).toString('utf8')
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException
    const reasons: Record<string, string> = {
      ENOENT: 'there is no such file',
      EACCES: 'reading it is not allowed',
      EISDIR: 'it is a directory',
    }
    throw new Fault('invalid', `cannot read ${file}: ${reasons[code] ?? (error as Error).message}`)
  }
}

async function readInput(cli: Cli): Promise<string> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of cli.stdin) {
    chunks.push(Buffer.from(chunk))
    length += chunks.at(-1)?.length ?? 0
    if (length > maxSpecBytes) break
  }
  return Buffer.concat(chunks).toString('utf8')
}
