import { Fault } from '../model/fault.ts'

/** `HOST:PORT`, `[::1]:PORT`, `HOST` or `:PORT`; https:// in front is allowed. */
export function parseAddress(text: string, defaultPort: number): { host: string; port: number } {
  const match = /^(?:https:\/\/)?(?:\[([^\]]+)\]|([^:/\s]*))(?::(\d{1,5}))?\/?$/.exec(text.trim())
  const port = match?.[3] === undefined ? defaultPort : Number(match[3])
  if (!match || port > 65_535)
    throw new Fault(
      'invalid',
      `"${text}" is not an address; write it like 127.0.0.1:${defaultPort} or [::1]:${defaultPort}`,
    )
  return { host: match[1] ?? (match[2] || '127.0.0.1'), port }
}
