import { spawn } from 'node:child_process'
import { readFile, stat } from 'node:fs/promises'
import { extname, resolve } from 'node:path'
import { text as readAll } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { deadline } from '../../kit/clock.ts'
import { Fault, type FaultPlace } from '../../model/fault.ts'
import { JobSpec } from '../../model/job.ts'
import type { Cli } from '../cli.ts'
import type { Evaluated } from './evaluate.ts'
import { explainIssues } from './explain.ts'
import { findInSource } from './find-in-source.ts'
import { maxSpecBytes } from './read-text.ts'
import { SpecFault } from './spec-fault.ts'

const patienceMs = 30_000

/**
 * The jobs that a TypeScript or JavaScript file exports. It is run by Node in a process of its own, where `tutti` is this
 * very package wherever the file lies; what it prints goes to standard error.
 */
export async function readJobModule(cli: Cli, file: string): Promise<JobSpec[]> {
  const info = await stat(file).catch(() => undefined)
  if (!info?.isFile()) throw new Fault('invalid', `cannot read ${file}: there is no such file`)
  if (info.size > maxSpecBytes) throw new Fault('invalid', `cannot read ${file}: it is over ${maxSpecBytes / 1024} KiB`)
  const source = await readFile(file, 'utf8')
  const sources = new Map([[file, source]])
  const evaluated = await evaluate(cli, file)
  if ('error' in evaluated) throw new SpecFault([{ file, ...evaluated.error }], sources)
  const places: FaultPlace[] = []
  const jobs: JobSpec[] = []
  const names = new Set<string>()
  for (const { value, line } of evaluated.jobs) {
    const parsed = JobSpec.safeParse(value)
    if (!parsed.success) {
      places.push(
        ...explainIssues(parsed.error.issues, value).map(({ path, message }) => ({
          file,
          ...findInSource(source, path, line),
          path: path.map(String).join('.'),
          message,
        })),
      )
    } else if (names.has(parsed.data.name)) {
      const message = `a job named "${parsed.data.name}" is exported already`
      places.push({ file, ...findInSource(source, ['name'], line), path: 'name', message })
    } else {
      names.add(parsed.data.name)
      jobs.push(parsed.data)
    }
  }
  if (places.length > 0) throw new SpecFault(places.slice(0, 100), sources)
  if (jobs.length > 0) return jobs
  throw new SpecFault([{ file, message: 'it exports no job; write: export const web = job({ … })' }], sources)
}

async function evaluate(cli: Cli, file: string): Promise<Evaluated> {
  const script = fileURLToPath(new URL(`./evaluate${extname(import.meta.url)}`, import.meta.url))
  using limit = deadline(cli.clock, patienceMs, cli.signal)
  const child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', '--no-warnings', script, resolve(file)],
    {
      stdio: ['ignore', 'inherit', 'inherit', 'pipe'],
      // What a job file prints must not mix with what the command prints.
      env: { ...process.env, ...cli.env, NO_COLOR: '1' },
    },
  )
  const ended = new Promise<number | null>((done, fail) => {
    child.once('error', fail)
    child.once('close', done)
  })
  const onAbort = () => child.kill('SIGKILL')
  limit.signal.addEventListener('abort', onAbort, { once: true })
  const answers = child.stdio[3]
  const [text, code] = await Promise.all([answers && 'readable' in answers ? readAll(answers) : '', ended])
  cli.signal.throwIfAborted()
  if (limit.signal.aborted)
    throw new Fault('invalid', `${file} did not end within ${patienceMs / 1000} s; it is only to export jobs`)
  try {
    return JSON.parse(text) as Evaluated
  } catch {
    throw new Fault('invalid', `${file} ended with code ${code ?? 'unknown'} before its jobs could be read`)
  }
}
