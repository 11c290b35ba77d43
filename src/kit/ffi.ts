/**
 * The C library through node:ffi, which is young and may be absent. Loading it prints that it is experimental; that is our
 * business, and not what a user's terminal should show.
 */
export function loadFfi(): typeof import('node:ffi') | undefined {
  const { emitWarning } = process
  const filtered = (...args: Parameters<typeof emitWarning>) => {
    if (!String(args[0]).includes('FFI')) emitWarning.apply(process, args)
  }
  process.emitWarning = filtered as typeof emitWarning
  try {
    return process.getBuiltinModule('node:ffi')
  } catch {
    return undefined
  } finally {
    process.emitWarning = emitWarning
  }
}
