import type { MainCommands } from '../cli/main-commands.ts'

/** How the command line's commands that live here are loaded, each when it runs and not before. */
export const mainCommands: MainCommands = {
  server: () => import('./commands/server.ts'),
  agent: () => import('./commands/agent.ts'),
  dev: () => import('./commands/dev.ts'),
  demo: () => import('./commands/demo.ts'),
  doctor: () => import('./commands/doctor.ts'),
  build: {
    list: () => import('./commands/build-list.ts'),
    inspect: () => import('./commands/build-inspect.ts'),
    diff: () => import('./commands/build-diff.ts'),
    copy: () => import('./commands/build-copy.ts'),
    mount: () => import('./commands/build-mount.ts'),
    unmount: () => import('./commands/build-unmount.ts'),
    verify: () => import('./commands/build-verify.ts'),
    export: () => import('./commands/build-export.ts'),
    gc: () => import('./commands/build-gc.ts'),
    bench: () => import('./commands/build-bench.ts'),
  },
}
