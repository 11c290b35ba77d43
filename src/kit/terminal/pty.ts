import { closeSync, constants, openSync } from 'node:fs'
import { loadFfi } from '../ffi.ts'

/**
 * A pseudo terminal of this machine, by the C library through node:ffi: no native module to build. node:ffi is young
 * and may be absent, so it is loaded at the first use, and `loadPty` says why when there is none.
 */
export interface Pty {
  /** Our end. Closed by whoever wraps it in a stream. */
  master: number
  /** The end that becomes the command's stdin, stdout and stderr; close it once the command has it. */
  slave: number
  resize(size: TerminalSize): void
}

export interface TerminalSize {
  columns: number
  rows: number
}

export type PtyOpener = { open: (size: TerminalSize) => Pty } | { lacking: string }

let loaded: PtyOpener | undefined

export function loadPty(): PtyOpener {
  loaded ??= load()
  return loaded
}

/** Set window size, https://man7.org/linux/man-pages/man2/TIOCSWINSZ.2const.html */
const setWindowSize = 0x5414n
/** On Linux; keeps other children from inheriting our end. */
const closeOnExec = 0o2000000

function load(): PtyOpener {
  if (process.platform !== 'linux') return { lacking: 'terminals through the C library are made for Linux only' }
  const ffi = loadFfi()
  if (ffi === undefined) return { lacking: `node:ffi is not part of Node ${process.versions.node}; use Node 26` }
  try {
    const { functions: libc } = ffi.dlopen(null, {
      posix_openpt: { arguments: ['int32'], return: 'int32' },
      grantpt: { arguments: ['int32'], return: 'int32' },
      unlockpt: { arguments: ['int32'], return: 'int32' },
      ptsname: { arguments: ['int32'], return: 'pointer' },
      ioctl: { arguments: ['int32', 'uint64', 'buffer'], return: 'int32' },
    })
    const open = (size: TerminalSize): Pty => {
      const master = libc.posix_openpt(constants.O_RDWR | constants.O_NOCTTY | closeOnExec)
      if (master < 0) throw new Error('the system gives out no terminal; it may have run out of them (/dev/pts)')
      try {
        if (libc.grantpt(master) !== 0 || libc.unlockpt(master) !== 0)
          throw new Error('the terminal cannot be unlocked')
        const path = ffi.toString(libc.ptsname(master))
        if (path === null) throw new Error('the terminal has no name')
        const resize = (to: TerminalSize) => {
          libc.ioctl(master, setWindowSize, Buffer.from(new Uint16Array([to.rows, to.columns, 0, 0]).buffer))
        }
        resize(size)
        return { master, slave: openSync(path, constants.O_RDWR | constants.O_NOCTTY), resize }
      } catch (error) {
        closeSync(master)
        throw error
      }
    }
    return { open }
  } catch (error) {
    return { lacking: `the C library cannot be called: ${error instanceof Error ? error.message : String(error)}` }
  }
}
