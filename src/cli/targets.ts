import type { Answer, Client } from '../client/client.ts'
import { Fault } from '../model/fault.ts'

export type Target =
  | { kind: 'job'; job: Answer<'getJob'> }
  | { kind: 'allocation'; allocation: Answer<'getAllocation'>['allocation']; nodeName: string }

/** What a word on the command line names: a job by its name, else an allocation by its id or the beginning of it. */
export async function findTarget(client: Client, word: string, signal: AbortSignal): Promise<Target> {
  const nothing = `there is no job named "${word}" and no allocation whose id begins so; "tutti jobs" and "tutti ps -a" list them`
  if (!/^[a-z0-9][a-z0-9-]{0,62}$/.test(word)) throw new Fault('not_found', nothing)
  try {
    return { kind: 'job', job: await client.getJob({ job: word }, { signal }) }
  } catch (error) {
    if (!(error instanceof Fault) || (error.code !== 'not_found' && error.code !== 'invalid')) throw error
  }
  try {
    const { allocation, nodeName } = await client.getAllocation({ allocation: word }, { signal })
    return { kind: 'allocation', allocation, nodeName }
  } catch (error) {
    if (error instanceof Fault && error.code === 'not_found') throw new Fault('not_found', nothing)
    throw error
  }
}

/** One allocation to go into: the target itself, or the job's first running copy. */
export async function findRunning(client: Client, word: string, signal: AbortSignal) {
  const target = await findTarget(client, word, signal)
  if (target.kind === 'allocation') return target.allocation
  const running = target.job.allocations.find(({ phase }) => phase === 'running')
  if (running) return running
  const { state, blocked } = target.job.job
  throw new Fault('conflict', `no copy of job "${word}" is running (it is ${state}${blocked ? `: ${blocked}` : ''})`)
}
