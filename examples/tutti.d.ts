// Lets this checkout's own type checker find what `tutti` exports to job files and programs.
declare module 'tutti' {
  export const job: typeof import('../src/client/job.ts').job
  export const connect: typeof import('../src/client/connect.ts').connect
}
