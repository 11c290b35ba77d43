import { publicAllocation } from '../contract/allocation.ts'
import { publicJobVersion, publicSlot, summarizeJob } from '../contract/job.ts'
import { page } from '../contract/page.ts'
import { redactSpec, restoreHidden } from '../contract/redact.ts'
import { type Applied, applyJob } from '../control/actions/apply-job.ts'
import { dryRun } from '../control/actions/dry-run.ts'
import { restartJob } from '../control/actions/restart-job.ts'
import { revertJob } from '../control/actions/revert-job.ts'
import { purgeJob, stopJob } from '../control/actions/stop-job.ts'
import type { Control } from '../control/control.ts'
import { findJob } from '../control/find.ts'
import { Fault } from '../model/fault.ts'
import type { JobSpec } from '../model/job.ts'
import type { Job } from '../model/records.ts'
import { diffSpecs } from '../placement/diff.ts'
import type { View } from '../store/store.ts'
import type { Handlers } from './handlers.ts'

type JobHandlers = Pick<
  Handlers,
  | 'listJobs'
  | 'getJob'
  | 'applyJob'
  | 'planJob'
  | 'stopJob'
  | 'restartJob'
  | 'revertJob'
  | 'jobHistory'
  | 'jobAllocations'
  | 'purgeJob'
>

export function jobHandlers({ control }: { control: Control }): JobHandlers {
  const { store } = control
  const answer = ({ job, changed, index }: Applied & { index: number }) => ({
    job: job.name,
    version: job.version,
    index,
    changed,
  })
  const changed = (name: string, index: number) => ({
    job: name,
    version: store.view.get('jobs', name)?.version ?? 0,
    index,
    changed: true,
  })
  return {
    listJobs: ({ query }) => {
      const { rows, next } = page(store.view.all('jobs'), (job) => job.name, query)
      return { jobs: rows.map((job) => summarize(store.view, job)), next, index: store.index }
    },
    getJob: ({ params }) => {
      const { view } = store
      const job = findJob(view, params.job)
      const slots = [...view.by('slotsByJob', job.name)].sort((a, b) => a.index - b.index)
      const newest = slots.map((slot) =>
        slot.allocation === null ? undefined : view.get('allocations', slot.allocation),
      )
      return {
        job: summarize(view, job),
        spec: redactSpec(job.spec),
        slots: slots.map(publicSlot),
        allocations: newest.filter((row) => row !== undefined).map(publicAllocation),
        index: store.index,
      }
    },
    applyJob: async ({ params, body, caller }) => {
      if (body.spec.name !== params.job)
        throw new Fault('invalid', `the path names job "${params.job}" but the spec is of "${body.spec.name}"`)
      const spec = restoreHidden(body.spec, store.view.get('jobs', params.job)?.spec)
      return answer(await applyJob(control, spec, { by: caller.name, expectVersion: body.expectVersion }))
    },
    planJob: ({ body }) => {
      const current = store.view.get('jobs', body.spec.name)
      const spec = restoreHidden(body.spec, current?.spec)
      return {
        job: spec.name,
        version: current?.version ?? 0,
        changes: changesOf(current && redactSpec(current.spec), redactSpec(spec)),
        ...dryRun(control, spec),
        index: store.index,
      }
    },
    stopJob: async ({ params, caller }) =>
      changed(params.job, (await stopJob(control, params.job, { by: caller.name })).index),
    restartJob: async ({ params, caller }) =>
      changed(params.job, (await restartJob(control, params.job, { by: caller.name })).index),
    revertJob: async ({ params, body, caller }) =>
      answer(await revertJob(control, params.job, { by: caller.name, version: body.version })),
    jobHistory: ({ params }) => {
      findJob(store.view, params.job)
      const versions = [...store.view.by('versionsByJob', params.job)].sort((a, b) => b.version - a.version)
      return { versions: versions.map(publicJobVersion), index: store.index }
    },
    jobAllocations: ({ params }) => {
      findJob(store.view, params.job)
      const rows = [...store.view.by('allocationsByJob', params.job)].sort((a, b) => b.createdAt - a.createdAt)
      return { allocations: rows.map(publicAllocation), index: store.index }
    },
    purgeJob: async ({ params, caller }) => {
      await purgeJob(control, params.job, { by: caller.name })
    },
  }
}

function summarize(view: View, job: Job) {
  return summarizeJob(job, view.by('slotsByJob', job.name), view.by('allocationsByJob', job.name))
}

function changesOf(before: JobSpec | undefined, after: JobSpec) {
  if (!before) return Object.entries(after).map(([path, value]) => ({ path, after: value }))
  return diffSpecs(before, after).map(({ path, before: old, after: next }) => ({
    path,
    ...(old === undefined ? {} : { before: old }),
    ...(next === undefined ? {} : { after: next }),
  }))
}
