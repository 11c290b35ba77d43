import type { Document } from 'yaml'
import type { FaultPlace } from '../../model/fault.ts'
import { JobSpec } from '../../model/job.ts'
import { explainIssues } from './explain.ts'
import type { SpecFault } from './spec-fault.ts'
import { byPlace, maxMistakes, readYaml } from './yaml-text.ts'

export { maxSpecBytes } from './yaml-text.ts'

const maxJobs = 1000

/**
 * The jobs of a YAML or JSON text: one per document, or a list. Throws a SpecFault that names every mistake by line and
 * column.
 */
export function readJobText(text: string, file: string): JobSpec[] {
  const { documents, placeOf, fail } = readYaml(text, file, 'job')
  const jobs: JobSpec[] = []
  const places: FaultPlace[] = []
  const names = new Set<string>()
  for (const document of documents) {
    if (places.length >= maxMistakes || jobs.length > maxJobs) break
    for (const { value, path } of roots(document, (message) =>
      fail([placeOf(document, [], { path: [], at: 'value', message })]),
    )) {
      const parsed = JobSpec.safeParse(value)
      if (!parsed.success) {
        // Finding a place takes time; nobody reads more than these.
        const explained = explainIssues(parsed.error.issues, value).slice(0, maxMistakes)
        places.push(...explained.map((each) => placeOf(document, path, each)))
        continue
      }
      if (names.has(parsed.data.name)) {
        const message = `a job named "${parsed.data.name}" stands in this file already`
        places.push(placeOf(document, path, { path: ['name'], at: 'value', message }))
      }
      names.add(parsed.data.name)
      jobs.push(parsed.data)
    }
  }
  if (places.length > 0) throw fail(places.sort(byPlace))
  if (jobs.length === 0) throw fail([{ file, message: 'it holds no job; a job begins with "name:" and "tasks:"' }])
  if (jobs.length > maxJobs)
    throw fail([{ file, message: `it holds ${jobs.length} jobs; at most ${maxJobs} go into one file` }])
  return jobs
}

/** The job or jobs of a document; nothing for an empty one. */
function roots(document: Document, fail: (message: string) => SpecFault): { value: unknown; path: PropertyKey[] }[] {
  let value: unknown
  try {
    value = document.toJS({ maxAliasCount: 100 })
  } catch (error) {
    throw fail(error instanceof Error ? error.message : 'its aliases cannot be resolved')
  }
  if (value === null || value === undefined) return []
  if (Array.isArray(value)) return value.slice(0, maxJobs + 1).map((each, at) => ({ value: each, path: [at] }))
  if (typeof value === 'object') return [{ value, path: [] }]
  throw fail('a job is a mapping that begins with "name:", not a single word')
}
