import { Writable } from 'node:stream'
import type { Execution, TerminalSize } from '../../guest/guest.ts'
import { runTool } from '../../images/run-tool.ts'

/**
 * Runtimes and engines hear of a terminal's new size in one way and of keys in another, and may get to the size after
 * the keys that were typed next. So the size is also set where the command looks, and the keys wait for that.
 */
export function sizedInput(options: {
  stdin: Writable
  /** Of the command; undefined where it is not on this machine. */
  pid: number | undefined
  resize: (size: TerminalSize) => Promise<void> | void
}): Pick<Execution, 'stdin' | 'resize'> {
  const { stdin, pid, resize } = options
  let sized = Promise.resolve()
  const apply = async (size: TerminalSize) => {
    await resize(size)
    if (pid === undefined) return
    // Fails when the command has ended, or has put something else in the terminal's place: then it does not matter.
    const args = ['-F', `/proc/${pid}/fd/0`, 'cols', String(size.columns), 'rows', String(size.rows)]
    await runTool('stty', args).catch(() => {})
  }
  return {
    stdin: new Writable({
      write: (chunk, _encoding, done) => void sized.then(() => stdin.write(chunk, () => done())),
      final: (done) => void sized.then(() => stdin.end(() => done())),
    }),
    resize: (size) => {
      sized = sized.then(() => apply(size)).catch(() => {})
    },
  }
}
