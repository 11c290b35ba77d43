import type { Cli } from '../../cli/cli.ts'
import { progress } from '../../cli/output/progress.ts'

/** Says how far something is, once it takes longer than a second: often on a terminal, now and then elsewhere. */
export function slowProgress(cli: Cli): { show(text: () => string): void } & Disposable {
  const shown = progress(cli)
  const everyMs = cli.stderr.isTTY ? 100 : 5000
  let next = cli.clock.monotonic() + 1000
  return {
    show(text) {
      const now = cli.clock.monotonic()
      if (now < next) return
      next = now + everyMs
      shown.show(text())
    },
    [Symbol.dispose]: () => shown[Symbol.dispose](),
  }
}
