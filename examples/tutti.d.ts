// Lets this checkout's own type checker find what `tutti` exports to job files.
declare module 'tutti' {
  export const job: typeof import('../src/client/job.ts').job
}
